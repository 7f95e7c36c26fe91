/* SPDX-License-Identifier: Apache-2.0 */
/* How the launcher fails: a sentence for people, and an exit code for rkt. */
#ifndef CLEARPOD_ERROR_H
#define CLEARPOD_ERROR_H

enum { FAILED = 254 };

/* One sentence on stderr. */
void report_error(const char *format, ...) __attribute__((format(printf, 1, 2)));

#endif
