/* SPDX-License-Identifier: Apache-2.0 */
/* See words.h. */
#include "words.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool take_link(const char *value, struct words *words)
{
    char *end;
    if (strcmp(value, "serial") == 0)
        return true;
    if (strncmp(value, "vsock:", 6) != 0)
        return false;
    unsigned long port = strtoul(value + 6, &end, 10);
    words->vsock_port = (unsigned)port;
    return port > 0 && port < UINT32_MAX && *end == 0;
}

static bool take_device(const char *value, char to[64])
{
    snprintf(to, 64, "%s", value);
    return strncmp(value, "/dev/", 5) == 0 && strlen(value) < 64 && is_path_beneath(value + 1);
}

static bool take_word(const char *word, struct words *words)
{
    if (strncmp(word, "clearpod.", 9) != 0)
        return true;
    word += 9;
    if (strncmp(word, "link=", 5) == 0)
        return take_link(word + 5, words);
    if (strncmp(word, "system=", 7) == 0)
        return take_device(word + 7, words->system);
    if (strncmp(word, "scratch=", 8) == 0)
        return take_device(word + 8, words->scratch);
    if (strncmp(word, "window=", 7) == 0)
        return take_device(word + 7, words->window);
    if (strcmp(word, "mark") == 0)
        return words->mark = true;
    if (strcmp(word, "plan") == 0)
        return words->plan = true;
    if (strcmp(word, "bench") == 0)
        return words->bench = true;
    return true; /* a later host's word */
}

bool words_parse(const char *line, struct words *words, char bad[64])
{
    memset(words, 0, sizeof *words);
    while (*line) {
        char word[128];
        size_t length = strcspn(line, " \t\n");
        snprintf(word, sizeof word, "%.*s", (int)(length < 127 ? length : 127), line);
        snprintf(bad, 64, "%.63s", word);
        if (!take_word(word, words))
            return false;
        line += length;
        line += strspn(line, " \t\n");
    }
    return true;
}

static bool take_path(const char *value, const char **to)
{
    *to = value;
    return *value == '/' && is_path_beneath(value + 1);
}

static bool take_namespace(const char *value, bool *own, bool *hosts)
{
    *own = strcmp(value, "own") == 0;
    *hosts = strcmp(value, "host") == 0;
    return *own || *hosts || strcmp(value, "given") == 0;
}

static bool take_host_word(const char *word, struct host_words *words)
{
    if (strncmp(word, "--directory=", 12) == 0)
        return take_path(word + 12, &words->directory);
    if (strncmp(word, "--cgroup=", 9) == 0)
        return take_path(word + 9, &words->cgroup);
    if (strncmp(word, "--crun=", 7) == 0)
        return take_path(word + 7, &words->crun);
    if (strncmp(word, "--scratch=", 10) == 0)
        return take_path(word + 10, &words->scratch);
    if (strncmp(word, "--network=", 10) == 0)
        return take_namespace(word + 10, &words->own_network, &words->host_network);
    if (strncmp(word, "--ipc=", 6) == 0)
        return take_namespace(word + 6, &words->own_ipc, &words->host_ipc);
    return false;
}

bool host_words_parse(const char *const *argv, struct host_words *words, char bad[64])
{
    memset(words, 0, sizeof *words);
    words->on = true;
    for (int i = 1; argv[0] && argv[i]; i++) {
        snprintf(bad, 64, "%.63s", argv[i]);
        if (!take_host_word(argv[i], words))
            return false;
    }
    snprintf(bad, 64, "%s", !words->directory ? "--directory=" : !words->cgroup ? "--cgroup=" : "--crun=");
    return words->directory && words->cgroup && words->crun;
}

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

bool sysctl_path(const char *key, char *to, size_t room)
{
    int length = snprintf(to, room, "/proc/sys/%s", key);
    if (length < 0 || (size_t)length >= room || strchr(key, '/') || !is_component(key, strlen(key)))
        return false;
    for (char *c = to + strlen("/proc/sys/"); *c; c++)
        if (*c == '.')
            *c = '/';
    return is_path_beneath(to + 1);
}

bool is_command_error(const char *text)
{
    static const char *const signs[] = {"executable file `", "but it is not executable", "open executable",
                                        "executable path not specified", "exec container process", "is not a regular file"};
    for (size_t i = 0; i < sizeof signs / sizeof *signs; i++)
        if (strstr(text, signs[i]))
            return true;
    return false;
}

bool is_missing_command(const char *text)
{
    return strstr(text, "executable file `") || strstr(text, "No such file");
}

void crun_message(const char *log, char *to, size_t room)
{
    const char *line = log, *best = log;
    while (*line) { /* the error is the last line; warnings come before it */
        const char *end = line + strcspn(line, "\n");
        if (end != line)
            best = line;
        line = *end ? end + 1 : end;
    }
    size_t length = strcspn(best, "\n"), tail = room / 2;
    if (length < room)
        snprintf(to, room, "%.*s", (int)length, best);
    else /* a path is long; what is wrong with it comes last */
        snprintf(to, room, "%.*s...%.*s", (int)(room - tail - 4), best, (int)tail, best + length - tail);
}
