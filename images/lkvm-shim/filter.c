/* SPDX-License-Identifier: Apache-2.0 */
/*
 * See filter.h and seccomp(2). A list of what is refused and not of what is allowed: the C library's choice of calls
 * changes from one version to the next, and a VM that dies of it helps nobody. QEMU's own filter is of the same kind.
 */
#include "filter.h"

#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/sched.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef __x86_64__
#error "the numbers of system calls below are x86-64's"
#endif

#define X32 0x40000000u

static const uint32_t refused[] = {
    /* other programs, and processes that are not ours */
    SYS_execve, SYS_execveat, SYS_fork, SYS_vfork, SYS_ptrace, SYS_process_vm_readv, SYS_process_vm_writev, SYS_kcmp,
    SYS_pidfd_open, SYS_pidfd_getfd, SYS_pidfd_send_signal, SYS_process_madvise, SYS_migrate_pages, SYS_move_pages,
    /* mounts and namespaces */
    SYS_mount, SYS_umount2, SYS_pivot_root, SYS_chroot, SYS_move_mount, SYS_open_tree, SYS_fsopen, SYS_fsconfig,
    SYS_fsmount, SYS_fspick, SYS_mount_setattr, SYS_unshare, SYS_setns, SYS_open_by_handle_at, SYS_quotactl,
    /* users and capabilities */
    SYS_setuid, SYS_setgid, SYS_setreuid, SYS_setregid, SYS_setresuid, SYS_setresgid, SYS_setfsuid, SYS_setfsgid,
    SYS_setgroups, SYS_capset, SYS_personality,
    /* the host's kernel, clock and name */
    SYS_init_module, SYS_finit_module, SYS_delete_module, SYS_kexec_load, SYS_kexec_file_load, SYS_reboot, SYS_swapon,
    SYS_swapoff, SYS_acct, SYS_syslog, SYS_settimeofday, SYS_clock_settime, SYS_adjtimex, SYS_clock_adjtime,
    SYS_sethostname, SYS_setdomainname, SYS_vhangup, SYS_iopl, SYS_ioperm, SYS_modify_ldt,
    /* large and seldom looked at */
    SYS_bpf, SYS_perf_event_open, SYS_add_key, SYS_request_key, SYS_keyctl, SYS_userfaultfd, SYS_io_uring_setup,
    SYS_io_uring_enter, SYS_io_uring_register, SYS_fanotify_init, SYS_lookup_dcookie,
};

enum { COUNT = sizeof refused / sizeof *refused, ROOM = 2 * COUNT + 32 };

struct program {
    struct sock_filter lines[ROOM];
    unsigned short length;
};

static void add(struct program *to, struct sock_filter line)
{
    to->lines[to->length++] = line;
}

static void load(struct program *to, size_t offset)
{
    add(to, (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, (uint32_t)offset));
}

static void answer(struct program *to, uint32_t action)
{
    add(to, (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, action));
}

/* The next `lines` hold only for calls of this number. */
static void when(struct program *to, uint32_t number, uint8_t lines)
{
    add(to, (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, number, 0, lines));
}

static void begin(struct program *to)
{
    load(to, offsetof(struct seccomp_data, arch));
    add(to, (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_X86_64, 1, 0));
    answer(to, SECCOMP_RET_KILL_PROCESS);
    load(to, offsetof(struct seccomp_data, nr));
    add(to, (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, X32, 0, 1));
    answer(to, SECCOMP_RET_KILL_PROCESS);
}

/* Threads only. Of clone3 a filter can't see the flags; without it the C library takes clone. */
static void judge_clones(struct program *to)
{
    when(to, SYS_clone3, 1);
    answer(to, SECCOMP_RET_ERRNO | ENOSYS);
    when(to, SYS_clone, 4);
    load(to, offsetof(struct seccomp_data, args[0]));
    add(to, (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, CLONE_THREAD, 0, 1));
    answer(to, SECCOMP_RET_ALLOW);
    answer(to, SECCOMP_RET_ERRNO | EPERM);
}

/* Its control socket, and the one that is asked about tap devices. */
static void judge_sockets(struct program *to)
{
    when(to, SYS_socket, 5);
    load(to, offsetof(struct seccomp_data, args[0]));
    add(to, (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AF_UNIX, 2, 0));
    add(to, (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AF_INET, 1, 0));
    answer(to, SECCOMP_RET_ERRNO | EPERM);
    answer(to, SECCOMP_RET_ALLOW);
}

int filter_install(void)
{
    struct program filter = {.length = 0};
    begin(&filter);
    judge_clones(&filter);
    judge_sockets(&filter);
    for (size_t i = 0; i < COUNT; i++) {
        when(&filter, refused[i], 1);
        answer(&filter, SECCOMP_RET_ERRNO | EPERM);
    }
    answer(&filter, SECCOMP_RET_ALLOW);
    struct sock_fprog code = {.len = filter.length, .filter = filter.lines};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
        return -1;
    return syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, &code) == 0 ? 0 : -1;
}
