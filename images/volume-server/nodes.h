/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The files that the guest's kernel knows, as descriptors of O_PATH: a node stays the same file when that is renamed, replaced or
 * unlinked. The guest names a node by a number that holds its place in the table and how often that was taken before, so that an
 * old number means nothing. Any thread may call.
 */
#ifndef CLEARPOD_NODES_H
#define CLEARPOD_NODES_H

#include "about.h"

#include <stdbool.h>
#include <stdint.h>

enum { NODES_MAX = 1 << 18, VOLUMES_END = 4096 /* the largest number of a volume is below */ };

struct node;

/* A file as it was at its last open. Until it changes, the guest may keep what it has read of it. */
struct seen {
    uint64_t size, ctime, mtime;
    uint32_t ctimensec, mtimensec;
};

/* At most `most` nodes, of all volumes together. */
void nodes_begin(uint32_t most);
/* Makes `fd`, which is taken, the root of a volume. 0 or -errno. */
int nodes_set_root(uint32_t volume, int fd);
/* Closes all nodes of a volume, of which nobody has one in use. */
void nodes_drop(uint32_t volume);

/* The node, which stays open until it is given back; NULL when the guest has none of that number. */
struct node *nodes_hold(uint32_t volume, uint64_t id);
void nodes_give_back(struct node *node);
int nodes_fd(const struct node *node);
uint32_t nodes_type(const struct node *node);
/* Whether the file is what it was at its last open; `now` is noted for the next one. */
bool nodes_is_as_seen(struct node *node, const struct seen *now);

/* The number of a known file, which the guest knows once more then; 0 when it is not known. */
uint64_t nodes_find(uint32_t volume, const struct file_key *key);
/* The number of a file that may have become known meanwhile; takes `fd`. 0 when there is no room. */
uint64_t nodes_add(uint32_t volume, const struct about *about, int fd);
/* The guest knows it `count` times less. */
void nodes_forget(uint32_t volume, uint64_t id, uint64_t count);
/* As the volume's files are numbered: other file systems below its root have numbers of their own. */
uint64_t nodes_inode(uint32_t volume, uint64_t device, uint64_t inode);
/* Whether there are so many that the guest is to forget some. */
bool nodes_are_many(void);

#endif
