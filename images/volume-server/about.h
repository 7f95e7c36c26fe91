/* SPDX-License-Identifier: Apache-2.0 */
/* What the host says of a file, in FUSE's words; see statx(2). */
#ifndef CLEARPOD_ABOUT_H
#define CLEARPOD_ABOUT_H

#include <linux/fuse.h>
#include <stdint.h>
#include <time.h>

/* What tells a file from all others while it is open. The mount counts: the same file may be read-only by another one. */
struct file_key {
    uint64_t device, inode, mount;
};

struct about {
    struct file_key key;
    struct fuse_attr attr;
    struct timespec made; /* 0 where the file system does not know */
};

/* Of `name` in the directory `at`, not following a link; of `at` itself when `name` is empty. 0 or -errno. */
int about_read(int at, const char *name, struct about *about);

#endif
