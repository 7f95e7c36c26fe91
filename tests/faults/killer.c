/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Kills at a step, in a guest: `killer WHO N` traces what the agent (PID 1) starts next, and kills the helper, crun or
 * crun's child (the container before its command) as it enters its N-th system call that changes something; with N = 0 it
 * only names these calls. Run by tests.faults.guest in a container that sees the guest's processes. It says "ready" when
 * the agent may be asked, one line per step, "killed NAME", and ends with the helper.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum role { NOBODY, AGENT, HELPER, CRUN, CHILD, UNKNOWN };
enum { MOST = 64, SYSCALL_STOP = SIGTRAP | 0x80, INFO_ENTRY = 1 };

struct info { /* ptrace_syscall_info, which musl may lack */
    uint8_t op, pad[3];
    uint32_t arch;
    uint64_t instruction, stack, number, args[6];
};

struct tracee {
    pid_t pid;
    enum role role;
};

static const char *const names[] = {"", "agent", "helper", "crun", "child"};
/* clang-format off */
static const struct {
    long number;
    const char *name;
} steps[] = {
    {SYS_mkdir, "mkdir"}, {SYS_mkdirat, "mkdirat"}, {SYS_mount, "mount"}, {SYS_umount2, "umount2"},
    {SYS_symlink, "symlink"}, {SYS_symlinkat, "symlinkat"}, {SYS_unlink, "unlink"}, {SYS_unlinkat, "unlinkat"},
    {SYS_rmdir, "rmdir"}, {SYS_rename, "rename"}, {SYS_renameat, "renameat"}, {SYS_fork, "fork"}, {SYS_vfork, "vfork"},
    {SYS_clone, "clone"}, {435, "clone3"}, {SYS_execve, "execve"}, {SYS_execveat, "execveat"}, {SYS_unshare, "unshare"},
    {SYS_setns, "setns"}, {SYS_pivot_root, "pivot_root"}, {SYS_chroot, "chroot"}, {SYS_sethostname, "sethostname"},
    {SYS_setresuid, "setresuid"}, {SYS_capset, "capset"}, {SYS_write, "write"}, {SYS_sendmsg, "sendmsg"},
    {SYS_bind, "bind"}, {SYS_chown, "chown"}, {SYS_fchown, "fchown"}, {SYS_fchownat, "fchownat"}, {SYS_chmod, "chmod"},
    {SYS_fchmod, "fchmod"}, {SYS_exit_group, "exit_group"}, {428, "open_tree"}, {429, "move_mount"}, {432, "fsmount"},
};
/* clang-format on */
static struct tracee tracees[MOST];
static enum role victim;
static long target, seen;

static struct tracee *find(pid_t pid, enum role role)
{
    struct tracee *empty = NULL;
    for (struct tracee *one = tracees; one < tracees + MOST; one++) {
        if (one->pid == pid)
            return one;
        if (!one->pid && !empty)
            empty = one;
    }
    if (!empty)
        exit(3);
    *empty = (struct tracee){pid, role};
    return empty;
}

static const char *step(const struct info *info)
{
    if (info->number == SYS_open || info->number == SYS_openat)
        return info->args[info->number == SYS_openat ? 2 : 1] & (O_WRONLY | O_RDWR | O_CREAT) ? "open" : NULL;
    for (size_t i = 0; i < sizeof steps / sizeof *steps; i++)
        if ((uint64_t)steps[i].number == info->number)
            return steps[i].name;
    return NULL;
}

static void check_step(const struct tracee *one)
{
    struct info info = {0};
    const char *name;
    if (one->role != victim || ptrace(0x420e, one->pid, (void *)sizeof info, &info) < 0 || info.op != INFO_ENTRY)
        return;
    if (!(name = step(&info)))
        return;
    printf("%s %s\n", names[victim], name);
    if (++seen == target) {
        printf("killed %s %s\n", names[victim], name);
        kill(one->pid, SIGKILL);
    }
}

static void go_on(const struct tracee *one, int signal)
{
    ptrace(one->role == AGENT ? PTRACE_CONT : PTRACE_SYSCALL, one->pid, NULL, (void *)(long)signal);
}

static void born(const struct tracee *parent)
{
    unsigned long pid = 0;
    ptrace(PTRACE_GETEVENTMSG, parent->pid, NULL, &pid);
    struct tracee *child = find((pid_t)pid, NOBODY);
    int is_waiting = child->role == UNKNOWN; /* its own stop came first */
    child->role = parent->role == CHILD ? CHILD : parent->role + 1;
    if (is_waiting)
        go_on(child, 0);
}

static void stopped(struct tracee *one, int status)
{
    int signal = WSTOPSIG(status), event = status >> 16;
    if (signal == SYSCALL_STOP)
        check_step(one);
    else if (event == PTRACE_EVENT_FORK || event == PTRACE_EVENT_VFORK || event == PTRACE_EVENT_CLONE)
        born(one);
    else if (event == PTRACE_EVENT_EXEC && one->role == CHILD) {
        ptrace(PTRACE_DETACH, one->pid, NULL, NULL); /* the container's own command */
        one->pid = 0;
        return;
    }
    go_on(one, event || signal == SYSCALL_STOP ? 0 : signal);
}

int main(int argc, char **argv)
{
    int status;
    long options =
        PTRACE_O_TRACEFORK | PTRACE_O_TRACEVFORK | PTRACE_O_TRACECLONE | PTRACE_O_TRACEEXEC | PTRACE_O_TRACESYSGOOD;
    setvbuf(stdout, NULL, _IOLBF, 0);
    for (victim = CHILD; argc == 3 && victim > AGENT && strcmp(names[victim], argv[1]); victim--)
        continue;
    target = argc == 3 ? atol(argv[2]) : 0;
    find(1, AGENT);
    if (ptrace(PTRACE_SEIZE, 1, NULL, (void *)options) < 0)
        return dprintf(2, "trace PID 1: %s\n", strerror(errno)), 1;
    puts("ready");
    for (;;) {
        pid_t pid = waitpid(-1, &status, __WALL);
        if (pid < 0)
            return 2;
        struct tracee *one = find(pid, UNKNOWN);
        if (WIFSTOPPED(status) && one->role == UNKNOWN)
            continue; /* until its parent tells of it */
        if (WIFSTOPPED(status)) {
            stopped(one, status);
            continue;
        }
        one->pid = 0;
        if (one->role == HELPER)
            return puts("end"), 0;
    }
}
