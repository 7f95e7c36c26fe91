/* SPDX-License-Identifier: Apache-2.0 */
/* See notice.h. */
#include "notice.h"

#include <stdbool.h>
#include <string.h>

#define GAP " ... "

enum {
    LINE_MAX_BYTES = NOTICE_MAX / NOTICE_LINES - 1,
    HEAD_BYTES = LINE_MAX_BYTES / 3,
    TAIL_BYTES = LINE_MAX_BYTES - HEAD_BYTES - (int)sizeof GAP,
    ESCAPE = 0x1b
};

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
    size_t length = strlen(line), at = strlen(to);
    if (length >= LINE_MAX_BYTES) { /* the reason is at the end: "... Permission denied" */
        memcpy(to + at, line, HEAD_BYTES);
        memcpy(to + at + HEAD_BYTES, GAP, sizeof GAP - 1);
        at += HEAD_BYTES + sizeof GAP - 1;
        memcpy(to + at, line + length - TAIL_BYTES, TAIL_BYTES);
        at += TAIL_BYTES;
    } else {
        memcpy(to + at, line, length);
        at += length;
    }
    to[at] = '\n';
    to[at + 1] = 0;
    ++*count;
}

/* Of a line that is longer than the room, the beginning and the end. */
static void clean_ends(const char *from, size_t size, char *to, size_t capacity)
{
    size_t half = (capacity - 1) / 2, first = size < capacity ? size : half;
    size_t length = notice_clean(from, first, to);
    if (first < size)
        notice_clean(from + size - half, half, to + length);
}

size_t notice(const char *from, size_t size, int is_cut, char to[NOTICE_MAX])
{
    static char line[4096];
    unsigned count = 0;
    *to = 0;
    for (size_t at = 0; at < size;) {
        const char *end = memchr(from + at, '\n', size - at);
        size_t length = end ? (size_t)(end - from) - at : size - at;
        clean_ends(from + at, length, line, sizeof line);
        const char *text = at || !is_cut ? chosen(line) : NULL;
        if (text)
            add(text, to, &count);
        at += length + 1;
    }
    return strlen(to);
}
