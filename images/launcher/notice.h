/* SPDX-License-Identifier: Apache-2.0 */
/* The lines of the last output of a VMM and its guest that have the reason of its end, escaped for a terminal. Pure. */
#ifndef CLEARPOD_NOTICE_H
#define CLEARPOD_NOTICE_H

#include <stddef.h>

#define POWERED_OFF "qemu_system_shutdown_request" /* as stage1/vm/own_machine.py has it */

enum { NOTICE_LINES = 4, NOTICE_MAX = 2048 };

/* Copies `size` bytes without escape sequences and control characters; what is no ASCII becomes '?'. Returns the length;
 * `to` has room for size + 1. */
size_t notice_clean(const char *from, size_t size, char *to);
/* The last lines with the reason, each cleaned and with a line end, without what a kernel always writes. `is_cut`: the
 * first line may have lost its beginning. Returns the length. */
size_t notice(const char *from, size_t size, int is_cut, char to[NOTICE_MAX]);

#endif
