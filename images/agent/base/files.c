/* SPDX-License-Identifier: Apache-2.0 */
/* See files.h. */
#include "base/files.h"

#include "base/scope.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/openat2.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

enum {
    DEPTH = 32,      /* descriptors that a removal keeps open */
    MOST_TRIES = 256 /* of one path */
};

ssize_t file_read(const char *path, char *to, size_t capacity)
{
    scoped_fd int fd = open(path, O_RDONLY | O_CLOEXEC);
    size_t used = 0;
    if (fd < 0)
        return -1;
    while (used < capacity - 1) {
        ssize_t got = read(fd, to + used, capacity - 1 - used);
        if (got < 0)
            return -1;
        if (got == 0)
            break;
        used += (size_t)got;
    }
    to[used] = 0;
    return (ssize_t)used;
}

int file_write(const char *path, const char *text)
{
    scoped_fd int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return -1;
    ssize_t put = write(fd, text, strlen(text));
    return put == (ssize_t)strlen(text) ? 0 : -1;
}

size_t unread_bytes(int fd)
{
    /* What was written to a terminal is handed on by a kernel thread. poll() waits for that (n_tty_poll), FIONREAD does
     * not, and returns 0 for output whose writer has ended. */
    struct pollfd flushed = {.fd = fd, .events = POLLIN};
    int count = 0;
    poll(&flushed, 1, 0);
    return ioctl(fd, FIONREAD, &count) < 0 ? 0 : (size_t)count;
}

int make_dir(const char *path, mode_t mode)
{
    return mkdir(path, mode) == 0 || errno == EEXIST ? 0 : -1;
}

int open_below(int root, const char *path, int flags, unsigned long long how)
{
    struct open_how open_how = {.flags = (uint64_t)(unsigned)flags | O_CLOEXEC, .resolve = how | RESOLVE_NO_MAGICLINKS};
    int fd = -1, tries = 0;
    do /* EAGAIN: something in the guest was renamed or mounted while a `..` was resolved (openat2(2)) */
        fd = (int)syscall(SYS_openat2, root, path, &open_how, sizeof open_how);
    while (fd < 0 && errno == EAGAIN && ++tries < MOST_TRIES);
    return fd;
}

int open_or_make(int root, const char *path, int flags, maker *make, const void *context)
{
    char part[PATH_MAX];
    if (strlen(path) >= sizeof part) {
        errno = ENAMETOOLONG;
        return -1;
    }
    int fd = fcntl(root, F_DUPFD_CLOEXEC, 0);
    for (size_t end = 0; fd >= 0 && path[end];) {
        size_t begin = end + strspn(path + end, "/");
        end = begin + strcspn(path + begin, "/");
        if (begin == end)
            break;
        snprintf(part, sizeof part, "%.*s", (int)end, path);
        scoped_fd int above = fd;
        /* By the whole path, since a link may lead anywhere in the root. */
        fd = open_below(root, part, flags, RESOLVE_IN_ROOT);
        if (fd < 0 && errno == ENOENT)
            fd = make(above, part + begin, context);
    }
    return fd;
}

struct removal {
    int top;
    dev_t device;
    unsigned moved; /* trees that were too deep and now wait at the top */
};

static int remove_below(struct removal *removal, int dir, int depth);

static int remove_directory(struct removal *removal, int dir, const char *name, int depth)
{
    struct stat st;
    if (depth == DEPTH) {
        char aside[32];
        snprintf(aside, sizeof aside, ".clearpod-deep-%u", removal->moved++);
        return renameat(dir, name, removal->top, aside);
    }
    int fd = openat(dir, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return -1;
    if (fstat(fd, &st) < 0 || st.st_dev != removal->device) {
        close(fd);
        errno = EXDEV;
        return -1;
    }
    if (remove_below(removal, fd, depth + 1) < 0) /* owns fd */
        return -1;
    return unlinkat(dir, name, AT_REMOVEDIR);
}

static int remove_below(struct removal *removal, int dir, int depth)
{
    scoped_dir DIR *list = fdopendir(dir);
    if (!list) {
        close(dir);
        return -1;
    }
    for (struct dirent *entry; (entry = readdir(list));) {
        if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, ".."))
            continue;
        if (unlinkat(dir, entry->d_name, 0) == 0)
            continue;
        if (errno != EISDIR)
            return -1;
        if (remove_directory(removal, dir, entry->d_name, depth) < 0)
            return -1;
    }
    return 0;
}

int remove_tree(const char *path, struct fault *why)
{
    struct stat st;
    scoped_fd int top = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (top < 0 && errno == ENOENT)
        return 0;
    if (top < 0 || fstat(top, &st) < 0)
        return fault_errno(why, "open %s", path);
    struct removal removal = {.top = top, .device = st.st_dev};
    unsigned before;
    do {
        before = removal.moved;
        int directory = openat(top, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (directory < 0 || remove_below(&removal, directory, 0) < 0)
            return fault_errno(why, "remove what is below %s", path);
    } while (removal.moved != before);
    return rmdir(path) < 0 ? fault_errno(why, "remove %s", path) : 0;
}

static bool is_kept(int fd, const int *kept, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (kept[i] == fd)
            return true;
    return false;
}

void close_all_but(const int *kept, size_t count)
{
    int highest = 2;
    for (size_t i = 0; i < count; i++)
        highest = kept[i] > highest ? kept[i] : highest;
    for (int fd = 3; fd < highest; fd++)
        if (!is_kept(fd, kept, count))
            close(fd);
    syscall(SYS_close_range, (unsigned)highest + 1, ~0u, 0);
}
