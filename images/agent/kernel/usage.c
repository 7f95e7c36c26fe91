/* SPDX-License-Identifier: Apache-2.0 */
/* See usage.h. */
#include "kernel/usage.h"

#include "base/scope.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { DEPTH = 64, BLOCK = 512, SHARES = 27720 }; /* SHARES is divisible by 1 to 12 */

uint64_t plain_number(const char *text)
{
    return strtoull(text, NULL, 10);
}

unsigned long keyed_number(const char *text, const char *key)
{
    size_t length = strlen(key);
    for (const char *line = text; line && *line; line = strchr(line, '\n')) {
        line += *line == '\n';
        if (!strncmp(line, key, length) && line[length] == ' ')
            return strtoul(line + length + 1, NULL, 10);
    }
    return 0;
}

uint64_t summed_number(const char *text, const char *key)
{
    size_t length = strlen(key);
    uint64_t sum = 0;
    for (const char *at = text; (at = strstr(at, key)); at += length)
        if (at > text && at[-1] == ' ' && at[length] == '=')
            sum += plain_number(at + length + 1);
    return sum;
}

bool interface_line(const char *line, clearpod_agent_InterfaceStats *to)
{
    uint64_t *const numbers[] = {&to->rx_bytes, &to->rx_packets, &to->rx_errors, &to->rx_dropped,
                                 &to->tx_bytes, &to->tx_packets, &to->tx_errors, &to->tx_dropped};
    memset(to, 0, sizeof *to);
    const char *name = line + strspn(line, " "), *at = name + strcspn(name, ": ");
    if (*at != ':' || at == name || (size_t)(at - name) >= sizeof to->name)
        return false;
    memcpy(to->name, name, (size_t)(at - name));
    at++;
    for (int i = 0; i < 12; i++) { /* the four between received and sent are not asked for */
        char *end;
        unsigned long long number = strtoull(at, &end, 10);
        if (end == at)
            return false;
        at = end;
        if (i < 4 || i >= 8)
            *numbers[i < 4 ? i : i - 4] = number;
    }
    return strcmp(to->name, "lo") != 0;
}

/* In shares of a byte and of an inode: each name of a file with several has its part. */
struct shares {
    uint64_t bytes, inodes;
};

static void walk(int dir, int depth, struct shares *sum)
{
    scoped_dir DIR *list = fdopendir(dir);
    if (!list)
        close(dir);
    for (struct dirent *entry; list && (entry = readdir(list));) {
        struct stat st;
        if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, ".."))
            continue;
        if (fstatat(dir, entry->d_name, &st, AT_SYMLINK_NOFOLLOW) < 0)
            continue; /* it was just removed */
        uint64_t names = S_ISDIR(st.st_mode) || st.st_nlink < 1 ? 1 : st.st_nlink;
        sum->bytes += (uint64_t)st.st_blocks * BLOCK / names;
        sum->inodes += SHARES / names;
        int below = S_ISDIR(st.st_mode) && depth < DEPTH
                        ? openat(dir, entry->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)
                        : -1;
        if (below >= 0)
            walk(below, depth + 1, sum);
    }
}

void usage_of(const char *path, struct usage *to)
{
    struct shares sum = {0};
    int dir = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (dir >= 0)
        walk(dir, 0, &sum);
    to->bytes = sum.bytes;
    to->inodes = (sum.inodes + SHARES / 2) / SHARES;
}
