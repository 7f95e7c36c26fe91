/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Read-only memory for the guest: zero pages, with files mapped over parts of them. Called by shim.c before the guest runs and
 * by the window's thread while it runs; a guest that reads where no file is gets zeros, never a fault.
 */
#ifndef CLEARPOD_SHIM_REGION_H
#define CLEARPOD_SHIM_REGION_H

#include "fault.h"

#include <stdbool.h>
#include <stdint.h>

struct region {
    unsigned char *base;
    uint64_t bytes;
};

/* `bytes` of zero pages, aligned like huge pages; undone by region_release. */
int region_reserve(struct region *region, uint64_t bytes, struct fault *why);
/* Put the file's `bytes` at `offset`; the descriptor is the region's then. On -1 it stays the caller's, nothing is mapped. */
int region_map(const struct region *region, uint64_t offset, uint64_t bytes, int fd, struct fault *why);
/* Zero pages again from `offset` on. Without a file there it does nothing; a file that lies only in part there is refused. */
int region_unmap(const struct region *region, uint64_t offset, uint64_t bytes, struct fault *why);
/* Unmap everything and give the memory back. */
void region_release(struct region *region);
/* Zero pages for what files have lost since they were mapped. True: there is such a file, so try the guest again, once. */
bool region_heal(void);

#endif
