/* SPDX-License-Identifier: Apache-2.0 */
/* See directories.h, getdents64(2). */
#include "directories.h"

#include "entry.h"
#include "handles.h"
#include "nodes.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

/* As the kernel writes it. */
struct host_entry {
    uint64_t inode;
    int64_t next;
    uint16_t size;
    uint8_t type;
    char name[];
};

int directories_open(struct call *call)
{
    struct fuse_open_in in;
    struct fuse_open_out out = {0};
    if (!call_take(call, &in, sizeof in) || !call_is_empty(call))
        return REQUEST_MALFORMED;
    int fd = openat(call->node, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    out.fh = handles_add(call->volume, fd, true);
    return out.fh ? call_answer(call, &out, sizeof out) : -ENFILE;
}

/* Reads on from `position`; what is left from the last time is not asked for again, but at the beginning all is. 0 or -errno. */
static int read_on(struct handle *handle, int64_t position)
{
    if (position != handle->next || position == 0) {
        handle->entries_at = handle->entries_end = 0;
        if (lseek(handle->fd, position, SEEK_SET) < 0)
            return -errno;
    }
    if (handle->entries_at < handle->entries_end)
        return 0;
    if (!handle->entries) {
        struct about about;
        int error = about_read(handle->fd, "", &about);
        if (error || !(handle->entries = malloc(ENTRIES_SIZE)))
            return error ? error : -ENOMEM;
        handle->device = about.key.device;
    }
    long size = syscall(SYS_getdents64, handle->fd, handle->entries, (size_t)ENTRIES_SIZE);
    handle->entries_at = 0;
    handle->entries_end = size < 0 ? 0 : (size_t)size;
    return size < 0 ? -errno : 0;
}

/* What the guest would ask for next. Without it, and for what it asks in another way, the number of the node is 0. */
static struct fuse_entry_out find(const struct call *call, int directory, const char *name)
{
    struct fuse_entry_out entry;
    if (!call_is_name(name) || entry_find(call->volume, directory, name, &entry))
        memset(&entry, 0, sizeof entry);
    return entry;
}

/* False if there is no room for it up to `room`. */
static bool put(struct call *call, const struct handle *handle, const struct host_entry *one, size_t room)
{
    static const char zeros[8];
    const bool plus = call->in.opcode == FUSE_READDIRPLUS;
    const uint32_t length = (uint32_t)strlen(one->name);
    const size_t bare = FUSE_NAME_OFFSET + length, size = FUSE_DIRENT_ALIGN(bare);
    if (size + (plus ? sizeof(struct fuse_entry_out) : 0) > room - call->answer_size)
        return false;
    struct fuse_dirent entry = {.ino = nodes_inode(call->volume, handle->device, one->inode),
                                .off = (uint64_t)one->next,
                                .namelen = length,
                                .type = one->type};
    if (plus) {
        struct fuse_entry_out known = find(call, handle->fd, one->name);
        if (known.nodeid)
            entry.ino = known.attr.ino;
        call_answer(call, &known, sizeof known);
    }
    call_answer(call, &entry, FUSE_NAME_OFFSET);
    call_answer(call, one->name, length);
    call_answer(call, zeros, size - bare);
    return true;
}

static int fill(struct call *call, struct handle *handle, const struct fuse_read_in *in)
{
    int64_t position = (int64_t)in->offset;
    for (;;) {
        int error = read_on(handle, position);
        if (error || handle->entries_at == handle->entries_end)
            return call->answer_size ? 0 : error;
        const struct host_entry *one = (const void *)(handle->entries + handle->entries_at);
        if (!put(call, handle, one, in->size))
            return call->answer_size ? 0 : -EINVAL;
        handle->entries_at += one->size;
        handle->next = position = one->next;
    }
}

int directories_read(struct call *call)
{
    struct fuse_read_in in;
    if (!call_take(call, &in, sizeof in) || !call_is_empty(call))
        return REQUEST_MALFORMED;
    if (in.size > ANSWER_MAX || in.offset > INT64_MAX)
        return -EINVAL;
    struct handle *handle = handles_hold(call->volume, in.fh, true);
    if (!handle)
        return -EBADF;
    pthread_mutex_lock(&handle->reading);
    int error = fill(call, handle, &in);
    pthread_mutex_unlock(&handle->reading);
    handles_give_back(handle);
    return error;
}
