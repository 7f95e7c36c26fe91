/* SPDX-License-Identifier: Apache-2.0 */
/*
 * For every VMM: the C library, threads, and waiting for events. The C libraries of distributions differ in which of several calls
 * they make for one function, and an update must not end VMs. So these lists hold every call that glibc 2.36 to 2.42 and
 * musl may choose for a function that a VMM uses, not only those that were seen.
 */
#include "rules.h"

#include <linux/prctl.h>
#include <linux/sched.h>
#include <sys/mman.h>

#ifndef PR_SET_VMA
#define PR_SET_VMA 0x53564d41
#endif
#define PRCTL(option) ALLOW_IF(prctl, IS(0, option))

/* Where namespaces are made; CLONE_NEWTIME is clone3's only. */
#define NAMESPACES \
    (CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNET)
#define THREAD (CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD)

const struct rule library_rules[] = {
    /* Memory: the heap, the guest's RAM, stacks of threads and coroutines. mmap and mprotect are in the lists below. */
    ALLOW(brk),
    ALLOW(munmap),
    ALLOW(mremap),
    ALLOW(madvise), /* huge pages, what the guest's balloon gives back */
    ALLOW(mincore),
    ALLOW(msync),
    ALLOW(mlock),
    ALLOW(mlock2),
    ALLOW(munlock),
    ALLOW(mlockall),
    ALLOW(munlockall),
    ALLOW(membarrier), /* RCU */
    ALLOW(memfd_create),
    ALLOW(map_shadow_stack), /* threads, where the processor has shadow stacks */
    ALLOW(mseal),            /* newer dynamic loaders */

    /* Threads, never processes: without CLONE_THREAD it would be one. The flags of clone3 are behind a pointer, which no filter can
     * read, so it does not exist, and glibc (2.34 and later try it first) takes clone instead. */
    ALLOW_IF(clone, BITS(0, THREAD | NAMESPACES | CLONE_VFORK | CLONE_PTRACE | CLONE_PARENT | CLONE_IO, THREAD)),
    FAIL(clone3, ENOSYS),
    ALLOW(set_tid_address),
    ALLOW(set_robust_list),
    ALLOW(rseq),
    ALLOW(arch_prctl), /* thread-local storage, shadow stacks */
    ALLOW(futex),
    ALLOW(futex_waitv),
    ALLOW(futex_wake),
    ALLOW(futex_wait),
    ALLOW(futex_requeue),
    ALLOW(sched_yield),
    ALLOW(sched_getaffinity), /* how many processors there are */
    ALLOW(sched_getparam),    /* how a thread is scheduled is asked, never changed */
    ALLOW(sched_getscheduler),
    ALLOW(sched_getattr),
    ALLOW(sched_get_priority_max),
    ALLOW(sched_get_priority_min),
    ALLOW(getcpu),
    ALLOW(exit),
    ALLOW(exit_group),

    /* Signals: to vCPU threads, and to itself to end in order (abort, raise). It is alone in its pid namespace, so that there is
     * no other process to signal. */
    ALLOW(rt_sigaction),
    ALLOW(rt_sigprocmask),
    ALLOW(rt_sigreturn),
    ALLOW(rt_sigpending),
    ALLOW(rt_sigtimedwait),
    ALLOW(rt_sigsuspend),
    ALLOW(sigaltstack),
    ALLOW(signalfd4),
    ALLOW(tgkill),
    ALLOW(tkill),
    ALLOW(kill),
    ALLOW(pause),
    ALLOW(restart_syscall),

    /* Time. Setting the clock is not here. */
    ALLOW(clock_gettime), /* where the vDSO does not answer */
    ALLOW(clock_getres),
    ALLOW(clock_nanosleep),
    ALLOW(nanosleep),
    ALLOW(gettimeofday),
    ALLOW(time),
    ALLOW(timerfd_create),
    ALLOW(timerfd_settime),
    ALLOW(timerfd_gettime),

    /* Waiting for events. */
    ALLOW(poll),
    ALLOW(ppoll),
    ALLOW(select),
    ALLOW(pselect6),
    ALLOW(epoll_create),
    ALLOW(epoll_create1),
    ALLOW(epoll_ctl),
    ALLOW(epoll_wait),
    ALLOW(epoll_pwait),
    ALLOW(epoll_pwait2),
    ALLOW(eventfd2),
    ALLOW(pipe),
    ALLOW(pipe2),

    /* Its ids and environment; none of this can be changed. prlimit64 of itself only: a hard limit can't be raised. */
    ALLOW(getpid),
    ALLOW(getppid),
    ALLOW(gettid),
    ALLOW(getpgrp),
    ALLOW(getpgid),
    ALLOW(getsid),
    ALLOW(getuid),
    ALLOW(geteuid),
    ALLOW(getgid),
    ALLOW(getegid),
    ALLOW(getresuid),
    ALLOW(getresgid),
    ALLOW(getgroups),
    ALLOW(capget),
    ALLOW(uname),
    ALLOW(sysinfo),
    ALLOW(getrusage),
    ALLOW_IF(prlimit64, IS(0, 0)),
    ALLOW(getrandom),

    /* Names of threads and of memory, the exactness of timers, errors of the memory, and a question of libcap when it is loaded. */
    PRCTL(PR_SET_NAME),
    PRCTL(PR_GET_NAME),
    PRCTL(PR_SET_TIMERSLACK),
    PRCTL(PR_GET_TIMERSLACK),
    PRCTL(PR_MCE_KILL),
    PRCTL(PR_MCE_KILL_GET),
    PRCTL(PR_SET_VMA),
    PRCTL(PR_CAPBSET_READ),
    END,
};

/* The filter is put on by the program that executes the VMM, and can't tell that first execve from another. The next filter can:
 * QEMU's own (`-sandbox spawn=deny`), or for kvmtool the one with `loaded_rules` that lkvm-shim brings. */
const struct rule loading_rules[] = {
    ALLOW(execve),
    /* With PROT_EXEC, for the dynamic loader; and QEMU without KVM (TCG) writes the code that it executes. */
    ALLOW(mmap),
    ALLOW(mprotect),
    /* More filters can only take away. libseccomp asks first what the kernel can. */
    ALLOW(seccomp),
    PRCTL(PR_SET_NO_NEW_PRIVS),
    PRCTL(PR_GET_NO_NEW_PRIVS),
    PRCTL(PR_SET_SECCOMP),
    PRCTL(PR_GET_SECCOMP),
    END,
};

/* The same for a process that has the filter with `loading_rules` already: a few instructions, where the kernel would compile the whole list
 * once more. */
const struct rule closing_rules[] = {
    KILL(execve),
    KILL_IF(mmap, BITS(2, PROT_EXEC, PROT_EXEC)),
    KILL_IF(mprotect, BITS(2, PROT_EXEC, PROT_EXEC)),
    KILL(seccomp),
    KILL_IF(prctl, IS(0, PR_SET_NO_NEW_PRIVS)),
    KILL_IF(prctl, IS(0, PR_GET_NO_NEW_PRIVS)),
    KILL_IF(prctl, IS(0, PR_SET_SECCOMP)),
    KILL_IF(prctl, IS(0, PR_GET_SECCOMP)),
    END,
};

/* Nothing that is written becomes code any more. */
const struct rule loaded_rules[] = {
    ALLOW_IF(mmap, BITS(2, PROT_EXEC, 0)),
    ALLOW_IF(mprotect, BITS(2, PROT_EXEC, 0)),
    END,
};
