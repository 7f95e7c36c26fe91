/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Codes of apps, from the files that the guest writes to those that rkt reads and makes. The guest never has rkt's own
 * directory: a link or a pipe in there would be followed and opened by rkt, as root of the host.
 */
#ifndef CLEARPOD_STATUSES_H
#define CLEARPOD_STATUSES_H

#include <stddef.h>

/* The code in `text`, a decimal number from 0 to 255 and at most a newline; -1: it is none. Pure. */
int status_code(const char *text, size_t size);
/* Write `code` to `path`, atomically: rkt may read at any time. Returns 0, -1 when that is not possible. */
int status_write(const char *path, int code);
/* For each app of the pod in the working directory, hand on what the guest has written below `from` to the directory
 * `to`, and remove it there. What is no file with a code is removed, and nothing else. */
void statuses_take(const char *from, const char *to);

#endif
