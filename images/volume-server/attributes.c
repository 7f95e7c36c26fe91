/* SPDX-License-Identifier: Apache-2.0 */
/* See attributes.h. */
#include "attributes.h"

#include "entry.h"
#include "files.h"
#include "handles.h"
#include "volumes.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/limits.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <sys/xattr.h>
#include <unistd.h>

enum { BITS = 07777, SHORT_SETXATTR = 8 /* FUSE_COMPAT_SETXATTR_IN_SIZE */ };

int attributes_get(struct call *call)
{
    struct fuse_getattr_in in; /* of an open file they are the same */
    return call_take(call, &in, sizeof in) && call_is_empty(call) ? entry_answer_attr(call) : REQUEST_MALFORMED;
}

/* By the handle where there is one: it was opened when that was allowed. */
static int set_size(const struct call *call, const struct fuse_setattr_in *in)
{
    struct handle *handle = NULL;
    if (in->size > INT64_MAX)
        return -EFBIG;
    if (call->type != S_IFREG)
        return call->type == S_IFDIR ? -EISDIR : -EINVAL;
    if (in->valid & FATTR_FH && !(handle = handles_hold(call->volume, in->fh, false)))
        return -EBADF;
    int fd = handle ? handle->fd : entry_open(call->node, O_WRONLY);
    int error = fd < 0 ? fd : in->valid & FATTR_KILL_SUIDGID ? files_drop_rights(fd) : 0;
    if (!error && ftruncate(fd, (off_t)in->size) < 0)
        error = -errno;
    if (handle)
        handles_give_back(handle);
    else if (fd >= 0)
        close(fd);
    return error;
}

static struct timespec time_of(const struct fuse_setattr_in *in, bool modified)
{
    const uint32_t set = modified ? FATTR_MTIME : FATTR_ATIME, now = modified ? FATTR_MTIME_NOW : FATTR_ATIME_NOW;
    if (!(in->valid & set))
        return (struct timespec){.tv_nsec = UTIME_OMIT};
    if (in->valid & now)
        return (struct timespec){.tv_nsec = UTIME_NOW};
    return modified ? (struct timespec){(time_t)in->mtime, in->mtimensec}
                    : (struct timespec){(time_t)in->atime, in->atimensec};
}

static int set_times(const struct call *call, const struct fuse_setattr_in *in)
{
    const struct timespec times[] = {time_of(in, false), time_of(in, true)};
    if (in->atimensec > 999999999 || in->mtimensec > 999999999) /* what is more has a meaning to utimensat */
        return -EINVAL;
    return utimensat(call->node, "", times, AT_EMPTY_PATH) < 0 ? -errno : 0;
}

static int set_owner(const struct call *call, const struct fuse_setattr_in *in)
{
    uid_t user = in->valid & FATTR_UID ? in->uid : (uid_t)-1;
    gid_t group = in->valid & FATTR_GID ? in->gid : (gid_t)-1;
    return fchownat(call->node, "", user, group, AT_EMPTY_PATH) < 0 ? -errno : 0;
}

/* The owner first: that takes bits of the mode away. */
int attributes_set(struct call *call)
{
    struct fuse_setattr_in in;
    int error = 0;
    if (!call_take(call, &in, sizeof in) || !call_is_empty(call))
        return REQUEST_MALFORMED;
    if (in.valid & (FATTR_UID | FATTR_GID))
        error = set_owner(call, &in);
    if (!error && in.valid & FATTR_MODE && fchmodat(AT_FDCWD, entry_path(call->node).path, in.mode & BITS, 0) < 0)
        error = -errno;
    if (!error && in.valid & FATTR_SIZE)
        error = set_size(call, &in);
    if (!error && in.valid & (FATTR_ATIME | FATTR_MTIME))
        error = set_times(call, &in);
    return error ? error : entry_answer_attr(call);
}

int attributes_statfs(struct call *call)
{
    struct statfs host;
    if (!call_is_empty(call))
        return REQUEST_MALFORMED;
    if (fstatfs(call->node, &host) < 0)
        return -errno;
    struct fuse_statfs_out out = {
        .st =
            {
                .blocks = host.f_blocks,
                .bfree = host.f_bfree,
                .bavail = host.f_bavail,
                .files = host.f_files,
                .ffree = host.f_ffree,
                .bsize = (uint32_t)host.f_bsize,
                .namelen = (uint32_t)host.f_namelen,
                .frsize = (uint32_t)(host.f_frsize ? host.f_frsize : host.f_bsize),
            },
    };
    return call_answer(call, &out, sizeof out);
}

/* With no room asked for the answer is how much is needed. */
static int answer_list(struct call *call, ssize_t size, uint32_t asked)
{
    struct fuse_getxattr_out out = {.size = size < 0 ? 0 : (uint32_t)size};
    if (size < 0)
        return -errno;
    if (!asked)
        return call_answer(call, &out, sizeof out);
    call->answer_size = (size_t)size;
    return 0;
}

static uint32_t room_of(uint32_t asked)
{
    return asked < XATTR_SIZE_MAX ? asked : XATTR_SIZE_MAX;
}

int attributes_getxattr(struct call *call)
{
    struct fuse_getxattr_in in;
    const char *name = call_take(call, &in, sizeof in) ? call_take_text(call) : NULL;
    if (!name || !call_is_empty(call))
        return REQUEST_MALFORMED;
    const struct by_descriptor by = entry_path(call->node);
    return answer_list(call, getxattr(by.path, name, call->answer, room_of(in.size)), in.size);
}

int attributes_listxattr(struct call *call)
{
    struct fuse_getxattr_in in;
    if (!call_take(call, &in, sizeof in) || !call_is_empty(call))
        return REQUEST_MALFORMED;
    const struct by_descriptor by = entry_path(call->node);
    return answer_list(call, listxattr(by.path, call->answer, room_of(in.size)), in.size);
}

int attributes_setxattr(struct call *call)
{
    struct fuse_setxattr_in in = {0};
    size_t begin = volumes_agreed(call->volume)->has_long_setxattr ? sizeof in : SHORT_SETXATTR;
    const char *name = call_take(call, &in, begin) ? call_take_text(call) : NULL;
    if (!name || (size_t)(call->end - call->at) != in.size)
        return REQUEST_MALFORMED;
    const struct by_descriptor by = entry_path(call->node);
    return setxattr(by.path, name, call->at, in.size, (int)in.flags) < 0 ? -errno : 0;
}

int attributes_removexattr(struct call *call)
{
    const char *name = call_take_text(call);
    if (!name || !call_is_empty(call))
        return REQUEST_MALFORMED;
    const struct by_descriptor by = entry_path(call->node);
    return removexattr(by.path, name) < 0 ? -errno : 0;
}
