/* SPDX-License-Identifier: Apache-2.0 */
/* See files.h. */
#include "files.h"

#include "entry.h"
#include "handles.h"
#include "nodes.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/magic.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/vfs.h>
#include <unistd.h>

#ifndef RWF_APPEND
#define RWF_APPEND 0x10
#endif
#define ZFS_MAGIC 0x2fc12fc1 /* not Linux' own */

enum {
    SETTLED_NS = 100000000,  /* a change that is older than this can't hide behind another of the same time */
    COPY_MAX = 64 << 20,     /* in one request; the guest asks for the rest */
    GUEST_FDATASYNC = 1 << 0 /* FUSE_FSYNC_FDATASYNC */
};

/*
 * Not O_APPEND: what the guest's kernel writes back from a shared map has a position, whatever the file was opened with. Each write
 * says itself whether it is to append. Not O_DIRECT: that is about the guest's cache.
 */
uint32_t files_flags(uint32_t asked)
{
    return asked & (uint32_t)(O_ACCMODE | O_TRUNC | O_SYNC | O_DSYNC | O_NOATIME | O_LARGEFILE);
}

int files_drop_rights(int fd)
{
    struct stat file;
    if (fstat(fd, &file) < 0)
        return -errno;
    mode_t rights = file.st_mode & S_IXGRP ? S_ISUID | S_ISGID : S_ISUID;
    if (!S_ISREG(file.st_mode) || !(file.st_mode & rights))
        return 0;
    return fchmod(fd, file.st_mode & 07777 & ~rights) < 0 ? -errno : 0;
}

/* Of the file systems that the host may have: what their files are like to the guest. */
static const struct {
    uint32_t magic;
    uint32_t ways; /* FOPEN_* */
} kinds[] = {
    /* All that can go wrong with a write has gone wrong when it returns, and not when the file is closed. */
    {EXT4_SUPER_MAGIC, FOPEN_NOFLUSH},
    {XFS_SUPER_MAGIC, FOPEN_NOFLUSH},
    {BTRFS_SUPER_MAGIC, FOPEN_NOFLUSH},
    {TMPFS_MAGIC, FOPEN_NOFLUSH},
    {F2FS_SUPER_MAGIC, FOPEN_NOFLUSH},
    {ZFS_MAGIC, FOPEN_NOFLUSH},
    /* The size of a file is not how much can be read of it: the guest must ask each time. */
    {PROC_SUPER_MAGIC, FOPEN_DIRECT_IO},
    {SYSFS_MAGIC, FOPEN_DIRECT_IO},
    {CGROUP_SUPER_MAGIC, FOPEN_DIRECT_IO},
    {CGROUP2_SUPER_MAGIC, FOPEN_DIRECT_IO},
    {DEBUGFS_MAGIC, FOPEN_DIRECT_IO},
    {TRACEFS_MAGIC, FOPEN_DIRECT_IO},
    {SECURITYFS_MAGIC, FOPEN_DIRECT_IO},
    {BPF_FS_MAGIC, FOPEN_DIRECT_IO},
    {PSTOREFS_MAGIC, FOPEN_DIRECT_IO},
    {EFIVARFS_MAGIC, FOPEN_DIRECT_IO},
    {SELINUX_MAGIC, FOPEN_DIRECT_IO},
};

uint32_t files_ways(int fd)
{
    struct statfs about;
    if (fstatfs(fd, &about) == 0)
        for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
            if ((uint32_t)about.f_type == kinds[i].magic)
                return kinds[i].ways;
    return 0;
}

/* Whether a change of the file now would have another time than the last one. */
static bool is_settled(const struct fuse_attr *attr)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    int64_t age = (now.tv_sec - (int64_t)attr->ctime) * 1000000000 + now.tv_nsec - (int64_t)attr->ctimensec;
    return age > SETTLED_NS && now.tv_sec - (int64_t)attr->ctime < INT32_MAX;
}

/* What the guest's kernel may do with the file: keep what it has read, if the file is as it was at its last open. */
static uint32_t ways(struct node *node, int fd)
{
    struct about about;
    uint32_t result = files_ways(fd);
    if (result & FOPEN_DIRECT_IO || about_read(fd, "", &about))
        return result;
    const struct fuse_attr *attr = &about.attr;
    const struct seen now = {attr->size, attr->ctime, attr->mtime, attr->ctimensec, attr->mtimensec}, never = {0};
    const bool settled = is_settled(attr);
    return result | (nodes_is_as_seen(node, settled ? &now : &never) && settled ? FOPEN_KEEP_CACHE : 0);
}

static int open_node(int node, const struct fuse_open_in *in)
{
    uint32_t flags = files_flags(in->flags);
    bool drops = flags & O_TRUNC && in->open_flags & FUSE_OPEN_KILL_SUIDGID;
    int fd = entry_open(node, drops ? flags & ~(uint32_t)O_TRUNC : flags);
    if (fd == -EPERM && in->flags & O_APPEND) /* chattr +a: it can only grow, and be opened so */
        fd = entry_open(node, flags | O_APPEND);
    int error = fd >= 0 && drops ? files_drop_rights(fd) : 0;
    if (!error && fd >= 0 && drops && ftruncate(fd, 0) < 0)
        error = -errno;
    if (error)
        close(fd);
    return error ? error : fd;
}

int files_open(struct call *call)
{
    struct fuse_open_in in;
    if (!call_take(call, &in, sizeof in) || !call_is_empty(call))
        return REQUEST_MALFORMED;
    if (call->type != S_IFREG) /* a FIFO, a socket or a device is the guest's own business */
        return -ENXIO;
    int fd = open_node(call->node, &in);
    if (fd < 0)
        return fd;
    struct node *node = nodes_hold(call->volume, call->in.nodeid);
    struct fuse_open_out out = {.open_flags = node ? ways(node, fd) : 0};
    if (node)
        nodes_give_back(node);
    out.fh = handles_add(call->volume, fd, false);
    return out.fh ? call_answer(call, &out, sizeof out) : -ENFILE;
}

/* As much as there is up to `size`: fewer bytes mean to the guest that the file ends there. */
static ssize_t read_fully(int fd, char *into, size_t size, off_t at)
{
    size_t done = 0;
    while (done < size) {
        ssize_t some = pread(fd, into + done, size - done, at + (off_t)done);
        if (some < 0 && errno == EINTR)
            continue;
        if (some < 0 && done == 0)
            return -errno;
        if (some <= 0)
            break;
        done += (size_t)some;
    }
    return (ssize_t)done;
}

int files_read(struct call *call)
{
    struct fuse_read_in in;
    if (!call_take(call, &in, sizeof in) || !call_is_empty(call))
        return REQUEST_MALFORMED;
    if (in.size > CONTENT_MAX || in.offset > INT64_MAX - CONTENT_MAX)
        return -EINVAL;
    struct handle *handle = handles_hold(call->volume, in.fh, false);
    if (!handle)
        return -EBADF;
    ssize_t size = read_fully(handle->fd, call->answer, in.size, (off_t)in.offset);
    handles_give_back(handle);
    call->answer_size = size < 0 ? 0 : (size_t)size;
    return size < 0 ? (int)size : 0;
}

static ssize_t write_fully(int fd, const char *bytes, size_t size, const struct fuse_write_in *in)
{
    /* What is written back from the guest's cache says nothing of the file's flags. */
    int how = in->flags & O_APPEND && !(in->write_flags & FUSE_WRITE_CACHE) ? RWF_APPEND : 0;
    size_t done = 0;
    while (done < size) {
        struct iovec part = {(char *)(uintptr_t)(bytes + done), size - done};
        ssize_t some = pwritev2(fd, &part, 1, (off_t)(in->offset + done), how);
        if (some < 0 && errno == EINTR)
            continue;
        if (some < 0 && done == 0)
            return -errno;
        if (some <= 0)
            break;
        done += (size_t)some;
    }
    return (ssize_t)done;
}

int files_write(struct call *call)
{
    struct fuse_write_in in;
    if (!call_take(call, &in, sizeof in) || (size_t)(call->end - call->at) != in.size)
        return REQUEST_MALFORMED;
    if (in.size > CONTENT_MAX || in.offset > INT64_MAX - CONTENT_MAX)
        return -EINVAL;
    struct handle *handle = handles_hold(call->volume, in.fh, false);
    if (!handle)
        return -EBADF;
    int error = in.write_flags & FUSE_WRITE_KILL_SUIDGID ? files_drop_rights(handle->fd) : 0;
    ssize_t size = error ? error : write_fully(handle->fd, call->at, in.size, &in);
    handles_give_back(handle);
    struct fuse_write_out out = {.size = size < 0 ? 0 : (uint32_t)size};
    return size < 0 ? (int)size : call_answer(call, &out, sizeof out);
}

/* The end of one of the descriptors that a file was opened with: some file systems say only now that they had no room. */
int files_flush(struct call *call)
{
    struct fuse_flush_in in;
    if (!call_take(call, &in, sizeof in) || !call_is_empty(call))
        return REQUEST_MALFORMED;
    struct handle *handle = handles_hold(call->volume, in.fh, false);
    if (!handle)
        return -EBADF;
    int copy = fcntl(handle->fd, F_DUPFD_CLOEXEC, 0);
    int error = copy < 0 || close(copy) < 0 ? -errno : 0;
    handles_give_back(handle);
    return error;
}

int files_release(struct call *call)
{
    struct fuse_release_in in;
    if (!call_take(call, &in, sizeof in) || !call_is_empty(call))
        return REQUEST_MALFORMED;
    handles_close(call->volume, in.fh, call->in.opcode == FUSE_RELEASEDIR);
    return 0;
}

int files_fsync(struct call *call)
{
    struct fuse_fsync_in in;
    if (!call_take(call, &in, sizeof in) || !call_is_empty(call))
        return REQUEST_MALFORMED;
    struct handle *handle = handles_hold(call->volume, in.fh, call->in.opcode == FUSE_FSYNCDIR);
    if (!handle)
        return -EBADF;
    int done = in.fsync_flags & GUEST_FDATASYNC ? fdatasync(handle->fd) : fsync(handle->fd);
    int error = done < 0 ? -errno : 0;
    handles_give_back(handle);
    return error;
}

int files_fallocate(struct call *call)
{
    struct fuse_fallocate_in in;
    const uint32_t known = FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE;
    if (!call_take(call, &in, sizeof in) || !call_is_empty(call))
        return REQUEST_MALFORMED;
    if (in.mode & ~known)
        return -EOPNOTSUPP;
    if (in.offset > INT64_MAX || in.length > INT64_MAX)
        return -EINVAL;
    struct handle *handle = handles_hold(call->volume, in.fh, false);
    if (!handle)
        return -EBADF;
    int error = fallocate(handle->fd, (int)in.mode, (off_t)in.offset, (off_t)in.length) < 0 ? -errno : 0;
    handles_give_back(handle);
    return error;
}

/* The guest knows itself where a file begins and ends, and asks for data and holes only. */
int files_lseek(struct call *call)
{
    struct fuse_lseek_in in;
    if (!call_take(call, &in, sizeof in) || !call_is_empty(call))
        return REQUEST_MALFORMED;
    if ((in.whence != SEEK_DATA && in.whence != SEEK_HOLE) || in.offset > INT64_MAX)
        return -EINVAL;
    struct handle *handle = handles_hold(call->volume, in.fh, false);
    if (!handle)
        return -EBADF;
    off_t at = lseek(handle->fd, (off_t)in.offset, (int)in.whence);
    int error = at < 0 ? -errno : 0;
    handles_give_back(handle);
    struct fuse_lseek_out out = {.offset = (uint64_t)at};
    return error ? error : call_answer(call, &out, sizeof out);
}

int files_copy_file_range(struct call *call)
{
    struct fuse_copy_file_range_in in;
    if (!call_take(call, &in, sizeof in) || !call_is_empty(call))
        return REQUEST_MALFORMED;
    if (in.flags || in.off_in > INT64_MAX || in.off_out > INT64_MAX)
        return -EINVAL;
    off_t from_at = (off_t)in.off_in, to_at = (off_t)in.off_out;
    struct handle *from = handles_hold(call->volume, in.fh_in, false);
    struct handle *to = handles_hold(call->volume, in.fh_out, false);
    ssize_t size = -EBADF;
    if (from && to) {
        size = copy_file_range(from->fd, &from_at, to->fd, &to_at, in.len < COPY_MAX ? in.len : COPY_MAX, 0);
        size = size < 0 ? -errno : size;
    }
    if (from)
        handles_give_back(from);
    if (to)
        handles_give_back(to);
    struct fuse_write_out out = {.size = size < 0 ? 0 : (uint32_t)size};
    return size < 0 ? (int)size : call_answer(call, &out, sizeof out);
}
