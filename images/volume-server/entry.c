/* SPDX-License-Identifier: Apache-2.0 */
/* See entry.h. */
#include "entry.h"

#include "nodes.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

struct by_descriptor entry_path(int fd)
{
    struct by_descriptor by;
    snprintf(by.path, sizeof by.path, "/proc/self/fd/%d", fd);
    return by;
}

int entry_open(int fd, uint32_t flags)
{
    int opened = open(entry_path(fd).path, (int)(flags | O_CLOEXEC | O_NOCTTY));
    return opened < 0 ? -errno : opened;
}

struct fuse_attr entry_attr(uint32_t volume, const struct about *about)
{
    struct fuse_attr attr = about->attr;
    attr.ino = nodes_inode(volume, about->key.device, attr.ino);
    return attr;
}

static struct fuse_entry_out entry_of(uint32_t volume, uint64_t id, const struct about *about)
{
    return (struct fuse_entry_out){
        .nodeid = id,
        .entry_valid = BELIEVED_NS / 1000000000,
        .entry_valid_nsec = BELIEVED_NS % 1000000000,
        .attr_valid = BELIEVED_NS / 1000000000,
        .attr_valid_nsec = BELIEVED_NS % 1000000000,
        .attr = entry_attr(volume, about),
    };
}

int entry_take(uint32_t volume, int fd, struct fuse_entry_out *entry)
{
    struct about about;
    int error = about_read(fd, "", &about);
    if (error) {
        close(fd);
        return error;
    }
    uint64_t id = nodes_add(volume, &about, fd);
    *entry = entry_of(volume, id, &about);
    return id ? 0 : -ENFILE;
}

int entry_find(uint32_t volume, int directory, const char *name, struct fuse_entry_out *entry)
{
    struct about about;
    int error = about_read(directory, name, &about);
    if (error)
        return error;
    uint64_t id = nodes_find(volume, &about.key);
    if (id) {
        *entry = entry_of(volume, id, &about);
        return 0;
    }
    int fd = openat(directory, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
    return fd < 0 ? -errno : entry_take(volume, fd, entry);
}

int entry_answer_attr(struct call *call)
{
    struct about about;
    int error = about_read(call->node, "", &about);
    struct fuse_attr_out out = {
        .attr_valid = BELIEVED_NS / 1000000000,
        .attr_valid_nsec = BELIEVED_NS % 1000000000,
    };
    if (error)
        return error;
    out.attr = entry_attr(call->volume, &about);
    return call_answer(call, &out, sizeof out);
}
