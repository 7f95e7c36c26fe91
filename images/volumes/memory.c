/* SPDX-License-Identifier: Apache-2.0 */
/* See memory.h. */
#include "memory.h"

#include "base/files.h"
#include "base/scope.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#define DATA "..data" /* by this link the kubelet switches from one version of a directory to the next */

enum { PATH_BYTES = 400, NAME = 256, LINK_BYTES = 4096, DEPTH = 32, ENTRIES = 4096, TRIES = 3, SLACK_KIB = 1024 };

struct copying {
    unsigned long long left; /* bytes, */
    unsigned entries;        /* and files and directories, that may still come */
};

static int copy_bytes(int from, int to, struct copying *left)
{
    static char bytes[1 << 16];
    for (ssize_t got; (got = read(from, bytes, sizeof bytes)) != 0;) {
        if (got < 0)
            return -1;
        if ((unsigned long long)got > left->left) {
            errno = EFBIG;
            return -1;
        }
        left->left -= (unsigned long long)got;
        if (write(to, bytes, (size_t)got) != got)
            return -1;
    }
    return 0;
}

static int finish(int fd, const struct stat *st)
{
    struct timespec times[2] = {st->st_atim, st->st_mtim};
    return fchown(fd, st->st_uid, st->st_gid) < 0 || fchmod(fd, st->st_mode & 07777) < 0 || futimens(fd, times) < 0 ? -1
                                                                                                                    : 0;
}

/* A file that is one: opening a FIFO would block until its other end is opened. */
static int open_file(int dir, const char *name, int flags)
{
    struct stat st;
    int fd = openat(dir, name, flags | O_NONBLOCK | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0 || (fstat(fd, &st) == 0 && S_ISREG(st.st_mode)))
        return fd;
    close(fd);
    errno = EINVAL;
    return -1;
}

static int copy_file(int from_dir, const char *from, int to_dir, const char *to, struct copying *left)
{
    struct stat st;
    scoped_fd int source = open_file(from_dir, from, O_RDONLY);
    scoped_fd int target =
        source < 0 ? -1 : openat(to_dir, to, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (target < 0 || fstat(source, &st) < 0)
        return -1;
    return copy_bytes(source, target, left) < 0 ? -1 : finish(target, &st);
}

static int copy_link(int from_dir, const char *name, int to_dir)
{
    char target[LINK_BYTES];
    ssize_t length = readlinkat(from_dir, name, target, sizeof target - 1);
    if (length < 0)
        return -1;
    target[length] = 0;
    return symlinkat(target, to_dir, name) < 0 && errno != EEXIST ? -1 : 0;
}

static int copy_below(int from, int to, const char *skip, int depth, struct copying *left);

static int copy_directory(int from_dir, const char *name, int to_dir, int depth, struct copying *left)
{
    struct stat st;
    int from = openat(from_dir, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC); /* copy_below closes it */
    if (from < 0)
        return -1;
    if (fstat(from, &st) < 0 || (mkdirat(to_dir, name, 0700) < 0 && errno != EEXIST)) {
        close(from);
        return -1;
    }
    scoped_fd int to = openat(to_dir, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    return copy_below(from, to, NULL, depth, left) < 0 ? -1 : finish(to, &st);
}

static int copy_entry(int from, int to, const char *name, int depth, struct copying *left)
{
    struct stat st;
    if (fstatat(from, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
        return -1;
    if (depth >= DEPTH || left->entries-- == 0) {
        errno = EFBIG;
        return -1;
    }
    if (S_ISDIR(st.st_mode))
        return copy_directory(from, name, to, depth + 1, left);
    if (S_ISLNK(st.st_mode))
        return copy_link(from, name, to);
    return S_ISREG(st.st_mode) ? copy_file(from, name, to, name, left) : 0;
}

/* Closes `from`. With `skip`, omits names that begin so: the kubelet's own entries, which are copied in a fixed order. */
static int copy_below(int from, int to, const char *skip, int depth, struct copying *left)
{
    scoped_dir DIR *list = fdopendir(from);
    if (!list) {
        close(from);
        return -1;
    }
    for (struct dirent *entry; (entry = readdir(list));) {
        const char *name = entry->d_name;
        if (!strcmp(name, ".") || !strcmp(name, "..") || (skip && !strncmp(name, skip, strlen(skip))))
            continue;
        if (copy_entry(dirfd(list), to, name, depth, left) < 0)
            return -1;
    }
    return 0;
}

/* Links of the copy whose file is in no version any more, and versions that are not `version`. */
static void drop_old(int from, const char *place, const char *version)
{
    char path[PATH_BYTES + 300];
    struct stat st;
    struct fault ignored;
    scoped_dir DIR *list = opendir(place);
    for (struct dirent *entry; list && (entry = readdir(list));) {
        const char *name = entry->d_name;
        bool is_of_kubelet = !strncmp(name, "..", 2);
        if (!strcmp(name, ".") || !strcmp(name, "..") || !strcmp(name, DATA) || !strcmp(name, version))
            continue;
        if (!is_of_kubelet && fstatat(from, name, &st, AT_SYMLINK_NOFOLLOW) == 0)
            continue;
        snprintf(path, sizeof path, "%s/%.255s", place, name);
        if (unlink(path) < 0 && errno == EISDIR)
            remove_tree(path, &ignored);
    }
}

/* One version of a directory of the kubelet's: its files, then the names that lead to them, then in one step all of it. */
static int copy_version(int from, int to, const char *place, struct copying *left)
{
    char version[NAME], now[NAME];
    ssize_t length = readlinkat(from, DATA, version, sizeof version - 1);
    ssize_t had = readlinkat(to, DATA, now, sizeof now - 1);
    if (length < 0)
        return -1;
    version[length] = 0;
    if (strchr(version, '/')) {
        errno = EINVAL;
        return -1;
    }
    if (had == length && !memcmp(version, now, (size_t)had))
        return 0;
    if (copy_directory(from, version, to, 0, left) < 0)
        return -1;
    int again = openat(from, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (again < 0 || copy_below(again, to, "..", 0, left) < 0)
        return -1;
    unlinkat(to, DATA "_tmp", 0);
    if (symlinkat(version, to, DATA "_tmp") < 0 || renameat(to, DATA "_tmp", to, DATA) < 0)
        return -1;
    drop_old(from, place, version);
    return 0;
}

static bool is_same(int from, const char *place)
{
    struct stat new, old;
    return fstat(from, &new) == 0 && stat(place, &old) == 0 && new.st_size == old.st_size &&
           !memcmp(&new.st_mtim, &old.st_mtim, sizeof new.st_mtim);
}

/* A directory becomes the file system's root; a file is `file` in it, and is written in place: it is mounted alone. */
static int copy_now(const char *source, const char *place, unsigned long long most)
{
    struct copying left = {most, ENTRIES};
    struct stat st;
    scoped_fd int from = open(source, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    scoped_fd int to = open(place, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    char file[PATH_BYTES + 8];
    if (from < 0 || to < 0 || fstat(from, &st) < 0)
        return -1;
    if (!S_ISDIR(st.st_mode)) {
        snprintf(file, sizeof file, "%s/file", place);
        return is_same(from, file) ? 0 : copy_file(AT_FDCWD, source, to, "file", &left);
    }
    int again = openat(from, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (again < 0)
        return -1;
    if (fstatat(from, DATA, &st, AT_SYMLINK_NOFOLLOW) < 0) {
        if (copy_below(again, to, NULL, 0, &left) < 0)
            return -1;
    } else {
        close(again);
        if (copy_version(from, to, place, &left) < 0)
            return -1;
    }
    return fstat(from, &st) < 0 ? -1 : finish(to, &st);
}

int memory_volume(const char *text, const char *bundle, const char *place, bool is_new, struct fault *why)
{
    unsigned number;
    unsigned long long most;
    char source[PATH_BYTES + 32], options[64];
    if (sscanf(text, "%u %llu", &number, &most) != 2)
        return fault_set(why, FAULT_INVALID, "'%s' is no volume in memory", text);
    snprintf(source, sizeof source, "%s/mounts/%u", bundle, number);
    /* Room for two versions. */
    snprintf(options, sizeof options, "mode=755,size=%lluk", most / 512 + SLACK_KIB);
    if (is_new && (make_dir(place, 0755) < 0 || mount("clearpod", place, "tmpfs", MS_NOSUID | MS_NODEV, options) < 0))
        return fault_errno(why, "mount a tmpfs on %s", place);
    /* The kubelet may remove the version that is being copied; there is a newer one then. */
    for (int i = 0; i < TRIES; i++)
        if (copy_now(source, place, most) == 0)
            return 0;
        else if (errno != ENOENT)
            break;
    return fault_errno(why, "the volume %s can't be copied into the guest's memory (at most %llu bytes)", source, most);
}

int memory_output(const char *text, const char *bundle, const char *place, struct fault *why)
{
    unsigned number;
    unsigned long long most;
    char target[PATH_BYTES + 32], file[PATH_BYTES + 8];
    struct stat st;
    if (sscanf(text, "%u %llu", &number, &most) != 2)
        return fault_set(why, FAULT_INVALID, "'%s' is no volume in memory", text);
    snprintf(target, sizeof target, "%s/mounts/%u", bundle, number);
    snprintf(file, sizeof file, "%s/file", place);
    struct copying left = {most, 0};
    scoped_fd int from = open(file, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    scoped_fd int to = from < 0 ? -1 : open_file(AT_FDCWD, target, O_WRONLY);
    if (to < 0 || ftruncate(to, 0) < 0 || fstat(from, &st) < 0)
        return fault_errno(why, "open %s and %s", file, target);
    if ((unsigned long long)st.st_size > most)
        lseek(from, st.st_size - (off_t)most, SEEK_SET);
    if (copy_bytes(from, to, &left) < 0)
        return fault_errno(why, "write %s back to the host", file);
    return 0;
}
