# SPDX-License-Identifier: Apache-2.0
"""The seccomp filter of an app: sets of system calls with wildcards, as OCI linux.seccomp. Pure. Called by security.

The default whitelist is the engine's own profile, `stage1.pod.seccomp`, which knows the guest's kernel: rkt's is of
2016 and kills today's C libraries. For the same reason a set of names, too, answers ENOSYS for calls that rkt's time
did not know, unless it names them.
"""

import errno
import json
from typing import Any

from stage1.errors import BadRequest
from stage1.pod import seccomp
from stage1.rkt.isolators import Names

_CLOCK = "adjtimex clock_adjtime clock_settime settimeofday stime"
_RAW_IO = "ioperm iopl"
_MODULE = "delete_module finit_module init_module"
_OWNERS = """chown fchown fchownat lchown setfsgid setfsuid setgid setgroups setregid setresgid setresuid setreuid
    setuid"""
_BLACK = """_sysctl acct add_key adjtimex bpf clock_adjtime clock_settime create_module delete_module finit_module
    get_kernel_syms get_mempolicy init_module ioperm iopl kcmp kexec_file_load kexec_load keyctl lookup_dcookie mbind
    mount move_pages name_to_handle_at nfsservctl open_by_handle_at perf_event_open pivot_root process_vm_readv
    process_vm_writev ptrace query_module quotactl reboot request_key set_mempolicy setns settimeofday stime swapoff
    swapon sysfs umount umount2 unshare uselib userfaultfd ustat vm86 vm86old"""
_WHITE = "@white"
"""Stands for the default whitelist, which is more than a set of names."""

WILDCARDS = {
    "@rkt/default-whitelist": _WHITE,
    "@docker/default-whitelist": _WHITE,
    "@rkt/default-blacklist": _BLACK,
    "@docker/default-blacklist": _BLACK,
    "@systemd/clock": _CLOCK,
    "@systemd/default-whitelist": """clock_getres clock_gettime clock_nanosleep execve exit exit_group getrlimit
        gettimeofday nanosleep pause rt_sigreturn time""",
    "@systemd/mount": "chroot mount pivot_root umount2",
    "@systemd/network-io": """accept accept4 bind connect getpeername getsockname getsockopt listen recvfrom recvmmsg
        recvmsg sendmmsg sendmsg sendto setsockopt shutdown socket socketpair""",
    "@systemd/obsolete": """_sysctl afs_syscall create_module get_kernel_syms getpmsg nfsservctl putpmsg query_module
        security sysfs tuxcall uselib ustat vserver""",
    "@systemd/privileged": f"""{_CLOCK} {_MODULE} {_RAW_IO} {_OWNERS} _sysctl acct bpf capset chroot kexec_file_load
        kexec_load nfsservctl pivot_root quotactl reboot setdomainname sethostname swapoff swapon vhangup""",
    "@systemd/process": "arch_prctl clone execveat fork kill prctl setns tgkill tkill unshare vfork",
    "@systemd/raw-io": _RAW_IO,
}
"""Those of systemd 231, without calls of other machines."""
ALL, NOTHING = "@appc.io/all", "@appc.io/empty"

STARTING = "close close_range execve"
"""The last system calls of crun, made with the filter in place."""
ALWAYS = f"""{STARTING} clock_getres clock_gettime clock_nanosleep exit exit_group getrlimit gettimeofday nanosleep
    rt_sigreturn time"""
"""Without these no program starts or ends, whatever a set of names retains."""
SETTING_UP = "capset prctl rt_sigaction rt_sigprocmask setgroups setresgid setresuid write"
"""The system calls of crun before that, made with the filter in place unless the app has no-new-privileges."""
YOUNGER = """cachestat clone3 epoll_pwait2 faccessat2 fchmodat2 fsconfig fsmount fsopen fspick futex_requeue
    futex_wait futex_waitv futex_wake io_pgetevents io_uring_enter io_uring_register io_uring_setup
    landlock_add_rule landlock_create_ruleset landlock_restrict_self listmount lsm_get_self_attr lsm_list_modules
    lsm_set_self_attr map_shadow_stack memfd_secret mount_setattr move_mount mseal open_tree openat2 pidfd_getfd
    pidfd_open pidfd_send_signal process_madvise process_mrelease quotactl_fd rseq set_mempolicy_home_node statmount
    statx uretprobe"""
"""Calls that rkt's lists were too old to have."""

_ALLOW, _ERRNO, _KILL = "SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO", "SCMP_ACT_KILL_PROCESS"


def known() -> frozenset[str]:
    """The system calls of the guest's kernel."""
    texts = (*seccomp.ALLOWED.values(), *seccomp.WITH_CAPABILITY.values(), seccomp.FORBIDDEN, YOUNGER, "clone")
    return frozenset(name for text in (*texts, "personality socket") for name in text.split())


def unknown(given: Names) -> tuple[str, ...]:
    """Names of the set that are no calls of the guest's kernel, such as those of 32-bit machines; they are left out."""
    return tuple(name for name in given.names if not name.startswith("@") and name not in known())


def filter_for(request: Names | None, held: tuple[str, ...], *, where: str) -> str:
    """`Security.seccomp` for the isolator and the bounding set `held`; empty is no filter. Raises BadRequest."""
    if request is None or _is_default(request):
        return seccomp.DEFAULT
    if ALL in request.names:
        return ""
    names = _names(request)
    action = _action(request.errno, where=where)
    if not request.retain:
        _require_startable(names, where=where)
        return json.dumps(_all_but(names, action))
    return json.dumps(_more(names, action, held=held) if _WHITE in names else _only(names, action))


def is_tight(request: Names | None) -> bool:
    """Whether crun can't set the app up behind this filter, so that no-new-privileges must be: then it comes last."""
    if request is None or _is_default(request) or ALL in request.names:
        return False
    names, needed = _names(request), frozenset(SETTING_UP.split())
    if request.retain:
        return _WHITE not in names and not needed <= names
    return bool(needed & names)


def _is_default(request: Names) -> bool:
    """Whether rkt treats the set as not given: removing all calls is not possible, and removing none is the default."""
    if ALL in request.names:
        return not request.retain
    return NOTHING in request.names or not _names(request)


def _expand(word: str) -> list[str]:
    return [word] if not word.startswith("@") else WILDCARDS.get(word, "").split()


def _names(request: Names) -> frozenset[str]:
    return frozenset(name for word in request.names for name in _expand(word))


def _require_startable(removed: frozenset[str], *, where: str) -> None:
    if lost := sorted((removed & frozenset(STARTING.split())) or (removed & {_WHITE})):
        what = ", ".join(lost).replace(_WHITE, "the default whitelist")
        raise BadRequest(f"{where}: a seccomp-remove-set with {what} leaves the app no way to start; take that out")


def _action(name: str, *, where: str) -> dict[str, Any]:
    if not name:
        return {"action": _KILL}
    number = getattr(errno, name, None) if name.startswith("E") else None
    if not isinstance(number, int):
        raise BadRequest(f"{where}: the seccomp isolator's errno {name!r} is not known; it is a name such as EPERM")
    return {"action": _ERRNO, "errnoRet": number}


def _document(default: dict[str, Any], *rules: dict[str, Any]) -> dict[str, Any]:
    renamed = {"errnoRet": "defaultErrnoRet", "action": "defaultAction"}
    head = {renamed[key]: value for key, value in default.items()}
    return {**head, "architectures": ["SCMP_ARCH_X86_64"], "syscalls": [rule for rule in rules if rule["names"]]}


def _only(names: frozenset[str], action: dict[str, Any]) -> dict[str, Any]:
    young = frozenset(YOUNGER.split()) - names
    retained = (names | frozenset(ALWAYS.split())) & known()
    return _document(
        action,
        {"names": sorted(retained), "action": _ALLOW},
        {"names": sorted(young), "action": _ERRNO, "errnoRet": errno.ENOSYS},
    )


def _all_but(names: frozenset[str], action: dict[str, Any]) -> dict[str, Any]:
    return _document({"action": _ALLOW}, {"names": sorted(names & known()), **action})


def _more(names: frozenset[str], action: dict[str, Any], *, held: tuple[str, ...]) -> dict[str, Any]:
    """The default profile with more calls, and with the isolator's errno in place of EPERM."""
    base, extra = seccomp.profile(held), (names & known()) - {"personality", "socket", "clone"}
    rules = []
    for rule in base["syscalls"]:
        if "args" not in rule:
            left = [name for name in rule["names"] if name not in extra]
            rule = {"names": left, "action": _ALLOW} if rule["action"] == _ALLOW else {"names": left, **action}
        rules.append(rule)
    allowed = {"names": sorted(extra), "action": _ALLOW}
    return {**base, "syscalls": [rule for rule in (*rules, allowed) if rule["names"]]}
