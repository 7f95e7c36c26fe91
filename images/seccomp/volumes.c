/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The volume server (images/volume-server), a static program of ours with musl: what it calls, and what the allocator and threads of
 * musl may choose. It makes no sockets, starts nothing, and signals nobody. Which files it reaches is for Landlock.
 */
#include "rules.h"

#include <linux/sched.h>
#include <sys/mman.h>
#include <sys/stat.h>

#define THREAD (CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD)
#define NOT_THREAD                                                                                               \
    (CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNET | \
     CLONE_VFORK | CLONE_PTRACE | CLONE_PARENT | CLONE_IO)

const struct rule volumes_rules[] = {
    /* To begin: the jailer installs the list before it executes the program, which has no capability to gain by another. */
    ALLOW(execve),
    ALLOW(arch_prctl),
    ALLOW(set_tid_address),
    ALLOW_IF(prlimit64, IS(0, 0)),
    ALLOW(umask),
    ALLOW(accept4), /* the guest's connection by vsock, at a listener that it was given */
    ALLOW(geteuid),
    ALLOW(getegid),

    /* Memory that is never code, and threads that are never processes. */
    ALLOW(brk),
    ALLOW_IF(mmap, BITS(2, PROT_EXEC, 0)),
    ALLOW_IF(mprotect, BITS(2, PROT_EXEC, 0)),
    ALLOW(munmap),
    ALLOW(mremap),
    ALLOW(madvise),
    ALLOW_IF(clone, BITS(0, THREAD | NOT_THREAD, THREAD)),
    FAIL(clone3, ENOSYS),
    ALLOW(futex),
    ALLOW(set_robust_list),
    ALLOW(rt_sigaction),
    ALLOW(rt_sigprocmask),
    ALLOW(rt_sigreturn),
    ALLOW(restart_syscall),
    ALLOW(clock_gettime), /* where the vDSO does not answer */
    ALLOW(exit),
    ALLOW(exit_group),

    /* The stream, and content. */
    ALLOW(read),
    ALLOW(write),
    ALLOW(writev),
    ALLOW(pread64),
    ALLOW(pwritev),
    ALLOW(pwritev2),
    ALLOW(lseek),
    ALLOW(ftruncate),
    ALLOW(fallocate),
    ALLOW(fsync),
    ALLOW(fdatasync),
    ALLOW(copy_file_range),
    ALLOW(getdents64),

    /* Descriptors: copies of them, and their flags. */
    ALLOW(open),
    ALLOW(openat),
    ALLOW(openat2),
    ALLOW(close),
    ALLOW_IF(fcntl, IS(1, 1030 /* F_DUPFD_CLOEXEC */)),
    ALLOW_IF(fcntl, IS(1, 1 /* F_GETFD */)),
    ALLOW_IF(fcntl, IS(1, 2 /* F_SETFD */)),
    ALLOW_IF(fcntl, IS(1, 4 /* F_SETFL */)),

    /* Attributes. */
    ALLOW(statx),
    ALLOW(fstat),
    ALLOW(newfstatat),
    ALLOW(fstatfs),
    ALLOW(readlinkat),
    ALLOW(fchmod),
    ALLOW(fchmodat),
    ALLOW(fchownat),
    ALLOW(utimensat),
    ALLOW(getxattr),
    ALLOW(setxattr),
    ALLOW(listxattr),
    ALLOW(removexattr),

    /* Names. No devices, which would be the host's. */
    ALLOW(mkdirat),
    ALLOW(unlinkat),
    ALLOW(linkat),
    ALLOW(symlinkat),
    ALLOW(renameat),
    ALLOW(renameat2),
    ALLOW_IF(mknodat, BITS(2, S_IFMT, S_IFIFO)),
    ALLOW_IF(mknodat, BITS(2, S_IFMT, S_IFSOCK)),
    END,
};
