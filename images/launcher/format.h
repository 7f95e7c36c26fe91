/* SPDX-License-Identifier: Apache-2.0 */
/* Texts out of pieces. musl's printf can do more, floating point above all, and would be a fifth of each pod's launcher. Pure. */
#ifndef CLEARPOD_FORMAT_H
#define CLEARPOD_FORMAT_H

#include <stdarg.h>
#include <stddef.h>

/* As snprintf, for %s, %.*s, %d, %u, %ld and %0Nld, N a digit. */
size_t format(char *to, size_t capacity, const char *pattern, ...) __attribute__((format(printf, 3, 4)));
size_t format_args(char *to, size_t capacity, const char *pattern, va_list args) __attribute__((format(printf, 3, 0)));

#endif
