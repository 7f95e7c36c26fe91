/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A guest's write to a full disk of the host waits until there is space. kvmtool, built without libaio, does not report a failed
 * write to the guest: the guest would hang, also once there is space again.
 */
#ifndef CLEARPOD_SHIM_DISK_H
#define CLEARPOD_SHIM_DISK_H

#include <stdbool.h>
#include <sys/types.h>
#include <sys/uio.h>

typedef ssize_t pwritev_fn(int fd, const struct iovec *pieces, int count, off_t offset);

/* The pod's disk, by the identity of its file; `is_known` is false without one. `real` writes, `pause` waits a moment. */
struct disk {
    pwritev_fn *real;
    void (*pause)(void);
    dev_t device;
    ino_t inode;
    bool is_known;
};

/* Find the disk at `path`, which may be NULL or absent. */
void disk_find(struct disk *disk, const char *path);

/* Like pwritev(2). Other files than the disk, such as those of volumes, fail at once. */
ssize_t disk_write(const struct disk *disk, int fd, const struct iovec *pieces, int count, off_t offset);

#endif
