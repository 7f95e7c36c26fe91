/* SPDX-License-Identifier: Apache-2.0 */
/* See error.h. */
#include "error.h"

#include "format.h"

#include <poll.h>
#include <unistd.h>

enum { SENTENCE_MAX = 2 * 4096, PATIENCE_MS = 1000 };

static int to = STDERR_FILENO;

void report_to(int fd)
{
    to = fd;
}

void report_error(const char *pattern, ...)
{
    static const char name[] = "clearpod: ";
    static char line[SENTENCE_MAX];
    va_list args;
    va_start(args, pattern);
    size_t size = format(line, sizeof line, "%s", name);
    size += format_args(line + size, sizeof line - size, pattern, args);
    va_end(args);
    size = size < sizeof line - 1 ? size : sizeof line - 1;
    line[size++] = '\n';
    struct pollfd ready = {.fd = to, .events = POLLOUT};
    if (poll(&ready, 1, PATIENCE_MS) < 1 || write(to, line, size) < 0)
        return; /* closed, or without a reader */
}
