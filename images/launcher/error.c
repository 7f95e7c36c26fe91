/* SPDX-License-Identifier: Apache-2.0 */
/* See error.h. */
#include "error.h"

#include <stdarg.h>
#include <stdio.h>
#include <unistd.h>

void report_error(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    dprintf(STDERR_FILENO, "clearpod: ");
    vdprintf(STDERR_FILENO, format, args);
    dprintf(STDERR_FILENO, "\n");
    va_end(args);
}
