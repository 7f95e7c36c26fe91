/* SPDX-License-Identifier: Apache-2.0 */
/* Files of the host as the guest's kernel is told of them, and the ways to them again that no name is needed for. */
#ifndef CLEARPOD_ENTRY_H
#define CLEARPOD_ENTRY_H

#include "about.h"
#include "call.h"

/* For how long the guest believes a name or an attribute without asking. docs/design/volumes.md has what it costs. */
enum { BELIEVED_NS = 100000000 };

/* `/proc/self/fd/N`. */
struct by_descriptor {
    char path[32];
};

struct by_descriptor entry_path(int fd);
/* Opens the file of a descriptor of O_PATH, which is no special file. A descriptor or -errno. */
int entry_open(int fd, uint32_t flags);
/* Tells the guest of the file `name` in `directory`, which it knows once more then. 0 or -errno. */
int entry_find(uint32_t volume, int directory, const char *name, struct fuse_entry_out *entry);
/* The same for the file of a descriptor of O_PATH, which is taken. */
int entry_take(uint32_t volume, int fd, struct fuse_entry_out *entry);
/* The attributes of what `about` is about. */
struct fuse_attr entry_attr(uint32_t volume, const struct about *about);
/* Answers with the attributes of the call's node. */
int entry_answer_attr(struct call *call);

#endif
