/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The volumes that the guest has attached, each a directory or another file below ROOT, by the numbers that the guest chose. A request holds
 * its volume; detaching waits for the last of them.
 */
#ifndef CLEARPOD_VOLUMES_H
#define CLEARPOD_VOLUMES_H

#include <stdbool.h>
#include <stdint.h>

/* What was agreed with the guest's kernel in FUSE_INIT. */
struct agreed {
    bool has_long_setxattr;
};

/* Below `root`, a descriptor of O_PATH. */
void volumes_begin(int root);
/* The mode of the root, or -errno. */
int volumes_attach(uint32_t number, const char *path);
/* 0 or -errno. */
int volumes_detach(uint32_t number);
/* False when there is none. */
bool volumes_enter(uint32_t number);
void volumes_leave(uint32_t number);
/* Of a volume that was entered. */
struct agreed *volumes_agreed(uint32_t number);

#endif
