# SPDX-License-Identifier: Apache-2.0
"""The seccomp profile `RuntimeDefault`: the system calls of the guest's kernel that a container may use, as data.

Called by `oci` when a container has the profile. Pure. The lists are those of the guest's kernel (Linux 6.12, x86-64
alone); a call of a later kernel that is in none of them answers ENOSYS, so that a C library falls back to an older one.
docs/user/security.md has the reasons.
"""

from collections.abc import Iterable
from typing import Any

DEFAULT = "default"
"""The value of `Security.seccomp` for this profile, with what the container's capabilities add."""

ALLOWED = {
    "files": """open openat openat2 creat close close_range read write readv writev pread64 pwrite64 preadv pwritev
        preadv2 pwritev2 lseek sendfile splice tee vmsplice copy_file_range sync fsync fdatasync syncfs
        sync_file_range truncate ftruncate fallocate fadvise64 readahead dup dup2 dup3 fcntl flock ioctl cachestat""",
    "names": """access faccessat faccessat2 stat fstat lstat newfstatat statx statfs fstatfs ustat readlink readlinkat
        getcwd chdir fchdir getdents getdents64 link linkat unlink unlinkat symlink symlinkat rename renameat renameat2
        mkdir mkdirat rmdir mknod mknodat chmod fchmod fchmodat fchmodat2 chown fchown lchown fchownat umask utime
        utimes futimesat utimensat name_to_handle_at setxattr lsetxattr fsetxattr getxattr lgetxattr fgetxattr
        listxattr llistxattr flistxattr removexattr lremovexattr fremovexattr""",
    "events": """poll ppoll select pselect6 epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_wait
        epoll_wait_old epoll_pwait epoll_pwait2 eventfd eventfd2 signalfd signalfd4 timerfd_create timerfd_settime
        timerfd_gettime inotify_init inotify_init1 inotify_add_watch inotify_rm_watch fanotify_mark pipe pipe2
        io_setup io_destroy io_submit io_cancel io_getevents io_pgetevents""",
    "sockets": """socketpair bind listen accept accept4 connect shutdown getsockname getpeername setsockopt getsockopt
        sendto recvfrom sendmsg recvmsg sendmmsg recvmmsg""",
    "memory": """brk mmap munmap mremap mprotect madvise mincore msync mlock mlock2 munlock mlockall munlockall
        membarrier memfd_create memfd_secret remap_file_pages pkey_alloc pkey_free pkey_mprotect mseal
        map_shadow_stack process_mrelease""",
    "processes": """fork vfork execve execveat exit exit_group wait4 waitid kill tkill tgkill pidfd_open
        pidfd_send_signal getpid getppid gettid getpgid getpgrp getsid setpgid setsid set_tid_address getrusage times
        prctl arch_prctl modify_ldt set_thread_area get_thread_area rseq uretprobe set_robust_list get_robust_list
        futex futex_waitv futex_wait futex_wake futex_requeue restart_syscall ptrace process_vm_readv
        process_vm_writev""",
    "signals": """rt_sigaction rt_sigprocmask rt_sigpending rt_sigtimedwait rt_sigqueueinfo rt_tgsigqueueinfo
        rt_sigsuspend rt_sigreturn sigaltstack pause alarm getitimer setitimer""",
    "scheduling": """sched_yield sched_getaffinity sched_setaffinity sched_getparam sched_setparam sched_getscheduler
        sched_setscheduler sched_getattr sched_setattr sched_get_priority_max sched_get_priority_min
        sched_rr_get_interval getpriority setpriority ioprio_get ioprio_set getcpu""",
    "identity": """getuid geteuid getgid getegid getresuid getresgid getgroups setuid setgid setreuid setregid
        setresuid setresgid setfsuid setfsgid setgroups capget capset getrlimit setrlimit prlimit64 seccomp
        landlock_create_ruleset landlock_add_rule landlock_restrict_self lsm_get_self_attr lsm_list_modules""",
    "time": """time gettimeofday clock_gettime clock_getres clock_nanosleep nanosleep timer_create timer_settime
        timer_gettime timer_getoverrun timer_delete adjtimex clock_adjtime""",
    "ipc": """shmget shmat shmctl shmdt semget semop semtimedop semctl msgget msgsnd msgrcv msgctl mq_open mq_unlink
        mq_timedsend mq_timedreceive mq_notify mq_getsetattr""",
    "system": "uname sysinfo getrandom",
}
"""Always allowed; whatever of them needs a privilege asks for the capability itself."""

WITH_CAPABILITY = {
    "CAP_DAC_READ_SEARCH": "open_by_handle_at",
    "CAP_SYS_ADMIN": """bpf fanotify_init fsconfig fsmount fsopen fspick listmount lookup_dcookie mount mount_setattr
        move_mount open_tree perf_event_open quotactl quotactl_fd setdomainname sethostname setns statmount syslog
        umount2 unshare""",
    "CAP_BPF": "bpf",
    "CAP_PERFMON": "perf_event_open",
    "CAP_SYS_BOOT": "reboot",
    "CAP_SYS_CHROOT": "chroot",
    "CAP_SYS_MODULE": "delete_module init_module finit_module",
    "CAP_SYS_NICE": "get_mempolicy mbind set_mempolicy set_mempolicy_home_node",
    "CAP_SYS_PACCT": "acct",
    "CAP_SYS_PTRACE": "kcmp pidfd_getfd process_madvise",
    "CAP_SYS_RAWIO": "ioperm iopl",
    "CAP_SYS_TIME": "clock_settime settimeofday",
    "CAP_SYS_TTY_CONFIG": "vhangup",
    "CAP_SYSLOG": "syslog",
}
"""EPERM without one of the capabilities: the kernel reaches much of its own code before it asks."""

FORBIDDEN = """_sysctl add_key afs_syscall create_module get_kernel_syms getpmsg io_uring_enter io_uring_register
    io_uring_setup kexec_file_load kexec_load keyctl lsm_set_self_attr migrate_pages move_pages nfsservctl pivot_root
    putpmsg query_module request_key security swapoff swapon sysfs tuxcall uselib userfaultfd vserver"""
"""EPERM, whatever the container holds: large attack surface for little use, not namespaced, or gone from the kernel."""

NAMESPACE_FLAGS = (0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000)
"""CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET."""
PERSONALITIES = (0x0, 0x8, 0x20000, 0x20008, 0xFFFFFFFF)
"""Linux, a 32-bit machine's name, both with the old uname, and the question which one is set."""
AF_VSOCK = 40
"""The way to the host: the link to the agent is there."""

_MOST_MADE = 64
_made: dict[frozenset[str], dict[str, Any]] = {}
"""Profiles by the capabilities that they allow for: most containers of a node have the same."""
_ALLOW, _ERRNO = "SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO"
_EPERM, _ENOSYS, _EAFNOSUPPORT = 1, 38, 97


def profile(held: Iterable[str]) -> dict[str, Any]:
    """OCI linux.seccomp for a container whose bounding set is `held` (names with CAP_); kept, and not to be changed."""
    capabilities = frozenset(held)
    if capabilities not in _made:
        if len(_made) >= _MOST_MADE:
            _made.clear()
        _made[capabilities] = _profile(capabilities)
    return _made[capabilities]


def _profile(capabilities: frozenset[str]) -> dict[str, Any]:
    allowed = {name for text in ALLOWED.values() for name in text.split()}
    guarded = {name for text in WITH_CAPABILITY.values() for name in text.split()}
    allowed |= {name for cap in capabilities for name in WITH_CAPABILITY.get(cap, "").split()}
    rules = [
        _rule(sorted(allowed), _ALLOW),
        _rule(sorted((guarded - allowed) | set(FORBIDDEN.split())), _ERRNO, errno=_EPERM),
    ]
    return {
        "defaultAction": _ERRNO,
        "defaultErrnoRet": _ENOSYS,
        "architectures": ["SCMP_ARCH_X86_64"],
        "syscalls": [*rules, *_clone("CAP_SYS_ADMIN" in capabilities), *_personality(), *_socket()],
    }


def _rule(names: list[str], action: str, *, errno: int = 0, **argument: Any) -> dict[str, Any]:
    rule: dict[str, Any] = {"names": names, "action": action}
    if errno:
        rule["errnoRet"] = errno
    if argument:
        rule["args"] = [argument]
    return rule


def _clone(may_make_namespaces: bool) -> list[dict[str, Any]]:
    """clone3 hides its flags from a filter; a C library that gets ENOSYS uses clone."""
    if may_make_namespaces:
        return [_rule(["clone", "clone3"], _ALLOW)]
    every, masked = sum(NAMESPACE_FLAGS), "SCMP_CMP_MASKED_EQ"
    return [
        _rule(["clone"], _ALLOW, index=0, value=every, valueTwo=0, op=masked),
        *(_rule(["clone"], _ERRNO, errno=_EPERM, index=0, value=f, valueTwo=f, op=masked) for f in NAMESPACE_FLAGS),
    ]


def _personality() -> list[dict[str, Any]]:
    return [_rule(["personality"], _ALLOW, index=0, value=value, op="SCMP_CMP_EQ") for value in PERSONALITIES]


def _socket() -> list[dict[str, Any]]:
    return [
        _rule(["socket"], _ALLOW, index=0, value=AF_VSOCK, op="SCMP_CMP_NE"),
        _rule(["socket"], _ERRNO, errno=_EAFNOSUPPORT, index=0, value=AF_VSOCK, op="SCMP_CMP_EQ"),
    ]
