/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Files: the VM's disks and console, the program's own libraries, and above all the 9p server, which does on the volumes what a
 * container does there. Which files these are is not decided here, but by the jail's root directory and by Landlock.
 *
 * The older spelling of a call (open, stat, rename, ...) gives nothing that the newer one does not, and kvmtool and musl use it.
 */
#include "rules.h"

#include <sys/stat.h>

/* For the server of the guest's mknod: pipes, sockets and ordinary files are names on a volume, but a device would be the host's. The
 * guest gets EPERM, and the server is not killed. `index` is that of the mode. */
/* clang-format off */
#define NODES(call, index)                                    \
    ALLOW_IF(call, BITS(index, S_IFMT, 0)),                    \
    ALLOW_IF(call, BITS(index, S_IFMT, S_IFREG)),              \
    ALLOW_IF(call, BITS(index, S_IFMT, S_IFIFO)),              \
    ALLOW_IF(call, BITS(index, S_IFMT, S_IFSOCK)),             \
    FAIL_IF(call, EPERM, BITS(index, S_IFMT, S_IFCHR)),        \
    FAIL_IF(call, EPERM, BITS(index, S_IFMT, S_IFBLK))
/* clang-format on */

const struct rule file_rules[] = {
    /* Content: the disks' by position and in vectors, sockets' and consoles' in order. */
    ALLOW(read),
    ALLOW(write),
    ALLOW(readv),
    ALLOW(writev),
    ALLOW(pread64),
    ALLOW(pwrite64),
    ALLOW(preadv),
    ALLOW(pwritev),
    ALLOW(preadv2),
    ALLOW(pwritev2),
    ALLOW(lseek),
    ALLOW(ftruncate),
    ALLOW(truncate),
    ALLOW(fallocate), /* what the guest discards is given back (FALLOC_FL_PUNCH_HOLE), zeros */
    ALLOW(fsync),
    ALLOW(fdatasync),
    ALLOW(sync_file_range),
    ALLOW(fadvise64),
    ALLOW(copy_file_range),

    /* Descriptors. fcntl is not narrowed: locks of disks, O_NONBLOCK, duplicates; its signals to others (F_SETOWN) end at the
     * pid namespace. */
    ALLOW(open),
    ALLOW(openat),
    ALLOW(openat2),
    ALLOW(close),
    ALLOW(close_range),
    ALLOW(dup),
    ALLOW(dup2),
    ALLOW(dup3),
    ALLOW(fcntl),
    ALLOW(flock),

    /* Looking at them. */
    ALLOW(stat),
    ALLOW(lstat),
    ALLOW(fstat),
    ALLOW(newfstatat),
    ALLOW(statx),
    ALLOW(statfs),
    ALLOW(fstatfs),
    ALLOW(access),
    ALLOW(faccessat),
    ALLOW(faccessat2),
    ALLOW(readlink),
    ALLOW(readlinkat),
    ALLOW(getdents),
    ALLOW(getdents64),
    ALLOW(getcwd),
    ALLOW(chdir),
    ALLOW(fchdir), /* GLib walks directories so */

    /* Names. */
    ALLOW(mkdir),
    ALLOW(mkdirat),
    ALLOW(rmdir),
    ALLOW(unlink),
    ALLOW(unlinkat),
    ALLOW(link),
    ALLOW(linkat),
    ALLOW(symlink),
    ALLOW(symlinkat),
    ALLOW(rename),
    ALLOW(renameat),
    ALLOW(renameat2),
    ALLOW(creat),
    NODES(mknod, 1),
    NODES(mknodat, 2),

    /* Owners, modes, times: within the capabilities of the VMM, which are those of root over the pod's own files. */
    ALLOW(chmod),
    ALLOW(fchmod),
    ALLOW(fchmodat),
    ALLOW(fchmodat2),
    ALLOW(chown),
    ALLOW(lchown),
    ALLOW(fchown),
    ALLOW(fchownat),
    ALLOW(umask),
    ALLOW(utime),
    ALLOW(utimes),
    ALLOW(futimesat),
    ALLOW(utimensat),

    /* Extended attributes; those of security.* and trusted.* need capabilities that it has not. */
    ALLOW(getxattr),
    ALLOW(lgetxattr),
    ALLOW(fgetxattr),
    ALLOW(setxattr),
    ALLOW(lsetxattr),
    ALLOW(fsetxattr),
    ALLOW(listxattr),
    ALLOW(llistxattr),
    ALLOW(flistxattr),
    ALLOW(removexattr),
    ALLOW(lremovexattr),
    ALLOW(fremovexattr),
    END,
};
