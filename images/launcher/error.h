/* SPDX-License-Identifier: Apache-2.0 */
/* How the launcher fails: a sentence for people, and an exit code for rkt. */
#ifndef CLEARPOD_ERROR_H
#define CLEARPOD_ERROR_H

enum { FAILED = 254 };
enum { AGAIN = -1 }; /* no code: the VM was a copy that did not start */

/* One sentence on stderr, if there is room for it within a second. */
void report_error(const char *pattern, ...) __attribute__((format(printf, 1, 2)));
/* Another descriptor for that from now on: one that does not wait. */
void report_to(int fd);

#endif
