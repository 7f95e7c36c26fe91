/* SPDX-License-Identifier: Apache-2.0 */
/* See about.h. <linux/stat.h> knows the mount's id, which musl's <sys/stat.h> does not yet; the two exclude each other. */
#include "about.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/stat.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

/* As the kernel packs a device's number in 32 bits (new_encode_dev). */
static uint32_t packed(uint32_t major, uint32_t minor)
{
    return (minor & 0xff) | major << 8 | (minor & ~0xffu) << 12;
}

static struct fuse_attr attr_of(const struct statx *file)
{
    return (struct fuse_attr){
        .ino = file->stx_ino,
        .size = file->stx_size,
        .blocks = file->stx_blocks,
        .atime = (uint64_t)file->stx_atime.tv_sec,
        .mtime = (uint64_t)file->stx_mtime.tv_sec,
        .ctime = (uint64_t)file->stx_ctime.tv_sec,
        .atimensec = file->stx_atime.tv_nsec,
        .mtimensec = file->stx_mtime.tv_nsec,
        .ctimensec = file->stx_ctime.tv_nsec,
        .mode = file->stx_mode,
        .nlink = file->stx_nlink,
        .uid = file->stx_uid,
        .gid = file->stx_gid,
        .rdev = packed(file->stx_rdev_major, file->stx_rdev_minor),
        .blksize = file->stx_blksize,
    };
}

int about_read(int at, const char *name, struct about *about)
{
    struct statx file;
    const int how = AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT;
    memset(&file, 0, sizeof file);
    if (syscall(SYS_statx, at, name, how, STATX_BASIC_STATS | STATX_BTIME | STATX_MNT_ID, &file) < 0)
        return -errno;
    about->key = (struct file_key){
        .device = (uint64_t)file.stx_dev_major << 32 | file.stx_dev_minor,
        .inode = file.stx_ino,
        .mount = file.stx_mnt_id,
    };
    about->attr = attr_of(&file);
    about->made = (struct timespec){file.stx_btime.tv_sec, file.stx_btime.tv_nsec};
    return 0;
}
