/* SPDX-License-Identifier: Apache-2.0 */
/* See disk.h. */
#include "disk.h"

#include <errno.h>
#include <sys/stat.h>

void disk_find(struct disk *disk, const char *path)
{
    struct stat status;
    disk->is_known = path && stat(path, &status) == 0 && S_ISREG(status.st_mode);
    if (!disk->is_known)
        return;
    disk->device = status.st_dev;
    disk->inode = status.st_ino;
}

static bool is_disk(const struct disk *disk, int fd)
{
    struct stat status;
    return disk->is_known && fstat(fd, &status) == 0 && status.st_dev == disk->device && status.st_ino == disk->inode;
}

ssize_t disk_write(const struct disk *disk, int fd, const struct iovec *pieces, int count, off_t offset)
{
    for (;;) {
        ssize_t done = disk->real(fd, pieces, count, offset);
        if (done >= 0 || (errno != ENOSPC && errno != EDQUOT))
            return done;
        int error = errno;
        if (!is_disk(disk, fd)) {
            errno = error;
            return done;
        }
        disk->pause();
    }
}
