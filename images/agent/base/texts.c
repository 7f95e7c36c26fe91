/* SPDX-License-Identifier: Apache-2.0 */
/* See texts.h. */
#include "base/texts.h"

#include <stdio.h>
#include <string.h>

bool is_id(const char *text)
{
    static const char allowed[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-";
    size_t length = strlen(text);
    return length > 0 && length < 100 && text[0] != '.' && text[0] != '-' && strspn(text, allowed) == length;
}

static bool is_component(const char *text, size_t length)
{
    if (length == 0 || length > 255 || (length == 1 && text[0] == '.') || (length == 2 && !memcmp(text, "..", 2)))
        return false;
    for (size_t i = 0; i < length; i++)
        if ((unsigned char)text[i] < 0x20 || text[i] == 0x7f)
            return false;
    return true;
}

bool is_file_name(const char *text)
{
    return !strchr(text, '/') && is_component(text, strlen(text));
}

bool is_path_beneath(const char *text)
{
    for (;;) {
        size_t length = strcspn(text, "/");
        if (!is_component(text, length))
            return false;
        if (!text[length])
            return true;
        text += length + 1;
    }
}

bool sysctl_path(const char *key, char *to, size_t capacity)
{
    int length = snprintf(to, capacity, "/proc/sys/%s", key);
    if (length < 0 || (size_t)length >= capacity || strchr(key, '/') || !is_component(key, strlen(key)))
        return false;
    for (char *c = to + strlen("/proc/sys/"); *c; c++)
        if (*c == '.')
            *c = '/';
    return is_path_beneath(to + 1);
}

#define NO_DIRECTORY "Not a d"
#define TOO_LONG "name too l"

bool is_command_error(const char *text)
{
    static const char *const signs[] = {
        "executable file `",      "but it is not executable", "open executable", "executable path not specified",
        "exec container process", "is not a regular file",    "cannot find `"};
    for (size_t i = 0; i < sizeof signs / sizeof *signs; i++)
        if (strstr(text, signs[i]))
            return true;
    /* of its path: a circle of links, what lies below a file, too long */
    return strstr(text, "cannot open `") &&
           (strstr(text, "Too many l") || strstr(text, NO_DIRECTORY) || strstr(text, TOO_LONG));
}

bool is_missing_command(const char *text)
{
    return strstr(text, "executable file `") || strstr(text, "No such file") || strstr(text, NO_DIRECTORY) ||
           strstr(text, TOO_LONG);
}

bool is_directory_error(const char *text)
{
    return strstr(text, ": chdir to `");
}

void crun_message(const char *log, char *to, size_t capacity)
{
    const char *line = log, *best = log;
    while (*line) { /* the error is the last line; warnings come before it */
        const char *end = line + strcspn(line, "\n");
        if (end != line)
            best = line;
        line = *end ? end + 1 : end;
    }
    size_t length = strcspn(best, "\n"), tail = capacity / 2;
    if (length < capacity)
        snprintf(to, capacity, "%.*s", (int)length, best);
    else /* a path is long; what is wrong with it comes last */
        snprintf(to, capacity, "%.*s...%.*s", (int)(capacity - tail - 4), best, (int)tail, best + length - tail);
}
