/* SPDX-License-Identifier: Apache-2.0 */
/* An error as one sentence, filled in where it occurs and shown by the caller; nothing here prints. */
#ifndef CLEARPOD_SHIM_FAULT_H
#define CLEARPOD_SHIM_FAULT_H

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

struct fault {
    char text[320];
};

/* Always -1, to be returned. */
__attribute__((format(printf, 2, 3))) static inline int fault_set(struct fault *why, const char *format, ...)
{
    va_list values;
    va_start(values, format);
    vsnprintf(why->text, sizeof why->text, format, values);
    va_end(values);
    return -1;
}

#endif
