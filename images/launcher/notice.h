/* SPDX-License-Identifier: Apache-2.0 */
/* What of the last words of a VMM and its guest tells why it died, fit for a terminal. Pure. */
#ifndef CLEARPOD_NOTICE_H
#define CLEARPOD_NOTICE_H

#include <stddef.h>

enum { NOTICE_LINES = 4, NOTICE_MAX = 1024 };

/* Copies `size` bytes without escape sequences and control characters; what is no ASCII becomes '?'. Returns the length;
 * `to` has room for size + 1. */
size_t notice_clean(const char *from, size_t size, char *to);
/* The last lines that say why, each cleaned and with a line end, without what a kernel says in passing. `is_cut`: the
 * first line may have lost its beginning. Returns the length. */
size_t notice(const char *from, size_t size, int is_cut, char to[NOTICE_MAX]);

#endif
