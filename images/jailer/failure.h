/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Why the jail can't be made: one sentence of the process. A function that returns false has set it with `failed`, and undoes
 * nothing: the process ends, and what it has made ends with it.
 */
#ifndef CLEARPOD_FAILURE_H
#define CLEARPOD_FAILURE_H

#include <stdbool.h>

enum { FAILED = 254, SENTENCE_MAX = 512 };

/* `what value: errno`. Returns false. The first one of a process stays. */
bool failed(const char *what, const char *value);
/* The sentence of the child, which is ours then. */
void failure_take(const char *text);
const char *failure(void);

#endif
