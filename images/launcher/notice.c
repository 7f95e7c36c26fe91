/* SPDX-License-Identifier: Apache-2.0 */
/* See notice.h. */
#include "notice.h"

#include <stdbool.h>
#include <string.h>

enum { LINE_MAX_BYTES = NOTICE_MAX / NOTICE_LINES - 1, ESCAPE = 0x1b };

static size_t escape_length(const char *from, size_t size)
{
    size_t at = 2;
    if (size > 1 && from[1] == '[') /* parameters, and one letter at the end */
        while (at < size && (from[at] < 0x40 || from[at] > 0x7e))
            at++;
    else
        return size < 2 ? size : 2;
    return at < size ? at + 1 : size;
}

size_t notice_clean(const char *from, size_t size, char *to)
{
    size_t length = 0;
    for (size_t at = 0; at < size;) {
        if (from[at] == ESCAPE) {
            at += escape_length(from + at, size - at);
            continue;
        }
        unsigned char c = (unsigned char)from[at++];
        if (c >= 0x80)
            c = '?';
        if (c >= ' ' && c != 0x7f)
            to[length++] = (char)c;
    }
    to[length] = 0;
    return length;
}

/* Behind the time that the kernel puts in front of its lines; NULL where there is none. */
static const char *after_time(const char *line)
{
    const char *end = *line == '[' ? line + 1 + strspn(line + 1, " 0123456789.") : line;
    return end > line + 1 && *end == ']' ? end + 1 + strspn(end + 1, " ") : NULL;
}

static bool has_any(const char *line, const char *const *signs)
{
    for (; *signs; signs++)
        if (strstr(line, *signs))
            return true;
    return false;
}

/* What of the line is to be shown; NULL: nothing. */
static const char *chosen(const char *line)
{
    static const char *const grave[] = {"Kernel panic",     "BUG:",      "Oops", "Out of memory", "unable to handle",
                                        "protection fault", "I/O error", NULL};
    static const char *const passing[] = {"# lkvm run", "Info: ", POWERED_OFF, NULL}; /* kvmtool's, at each start */
    const char *text = after_time(line);
    if (text)
        return has_any(text, grave) && !strstr(text, "end Kernel panic") ? text : NULL;
    return line[strspn(line, " ")] && !has_any(line, passing) ? line : NULL;
}

static void add(const char *line, char to[NOTICE_MAX], unsigned *count)
{
    if (*count == NOTICE_LINES) {
        char *second = strchr(to, '\n') + 1;
        memmove(to, second, strlen(second) + 1);
        --*count;
    }
    strncat(to, line, LINE_MAX_BYTES - 1);
    strcat(to, "\n");
    ++*count;
}

size_t notice(const char *from, size_t size, int is_cut, char to[NOTICE_MAX])
{
    static char line[4096];
    unsigned count = 0;
    *to = 0;
    for (size_t at = 0; at < size;) {
        const char *end = memchr(from + at, '\n', size - at);
        size_t length = end ? (size_t)(end - from) - at : size - at;
        notice_clean(from + at, length < sizeof line ? length : sizeof line - 1, line);
        const char *text = at || !is_cut ? chosen(line) : NULL;
        if (text)
            add(text, to, &count);
        at += length + 1;
    }
    return strlen(to);
}
