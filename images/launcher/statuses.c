/* SPDX-License-Identifier: Apache-2.0 */
/* See statuses.h. */
#include "statuses.h"

#include "format.h"

#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#define APPS "appsinfo" /* rkt's, with a directory for each app */

enum { CODE_MAX = 255, TEXT_MAX = 8 };

int status_code(const char *text, size_t size)
{
    int code = 0;
    size_t at = 0;
    for (; at < size && text[at] >= '0' && text[at] <= '9' && code <= CODE_MAX; at++)
        code = 10 * code + (text[at] - '0');
    bool is_whole = at == size || (at + 1 == size && text[at] == '\n');
    return at && is_whole && code <= CODE_MAX ? code : -1;
}

int status_write(const char *path, int code)
{
    char temporary[PATH_MAX], text[16];
    format(temporary, sizeof temporary, "%s~", path);
    int fd = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0644);
    if (fd < 0)
        return -1;
    size_t size = format(text, sizeof text, "%d\n", code);
    bool is_written = write(fd, text, size) == (ssize_t)size;
    close(fd);
    return is_written ? rename(temporary, path) : -1;
}

/* -1: there is no file, -2: what is there is none with a code. Nothing waits: a pipe is opened without a writer. */
static int read_code(int from, const char *app)
{
    char text[TEXT_MAX];
    struct stat about;
    int fd = openat(from, app, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
    if (fd < 0)
        return faccessat(from, app, F_OK, AT_SYMLINK_NOFOLLOW) < 0 ? -1 : -2;
    ssize_t got = fstat(fd, &about) == 0 && S_ISREG(about.st_mode) ? read(fd, text, sizeof text) : -1;
    close(fd);
    int code = got > 0 ? status_code(text, (size_t)got) : -1;
    return code < 0 ? -2 : code;
}

static void take(int from, const char *app, const char *to)
{
    char path[PATH_MAX];
    int code = read_code(from, app);
    format(path, sizeof path, "%s/%s", to, app);
    if (code == -1 || (code >= 0 && status_write(path, code) < 0))
        return; /* with no room for it, it is tried again */
    if (unlinkat(from, app, 0) < 0)
        unlinkat(from, app, AT_REMOVEDIR);
}

void statuses_take(const char *from, const char *to)
{
    int fd = open(from, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    DIR *apps = fd >= 0 ? opendir(APPS) : NULL;
    for (struct dirent *one; apps && (one = readdir(apps));)
        if (*one->d_name != '.')
            take(fd, one->d_name, to);
    if (apps)
        closedir(apps);
    if (fd >= 0)
        close(fd);
}
