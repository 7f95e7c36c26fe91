# SPDX-License-Identifier: Apache-2.0
"""Confines the calling process by system calls, as `sandbox.command` has util-linux do it for a program.

Called by the fork server (`rootfs.confined`) in a child that has one thread, before it reads a foreign byte. The fences
are those of `sandbox.Box`; if this host lacks one of them this is not called (`sandbox.Means`).
"""

import ctypes
import os
import resource
import struct
from collections.abc import Iterable, Sequence

from stage1.linux import callfilter, libc, namespace, sandbox
from stage1.linux.libc import Guard
from stage1.linux.process import SIGKILL

_NEW_IPC, _NEW_UTS = 0x08000000, 0x04000000
NEW_PID = 0x20000000
_PR_SET_PDEATHSIG, _PR_SET_SECCOMP, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS, _PR_CAP_AMBIENT = 1, 22, 24, 38, 47
_AMBIENT_CLEAR_ALL = 4
_MODE_FILTER = 2
_CAPABILITIES_V3 = 0x20080522
_NO_CAPABILITIES = bytes(24)

_NR_ADD_RULE, _NR_RESTRICT_SELF = 445, 446
_VERSION, _BENEATH = 1, 1
_RIGHTS = (
    "execute", "write-file", "read-file", "read-dir", "remove-dir", "remove-file", "make-char", "make-dir",
    "make-reg", "make-sock", "make-fifo", "make-block", "make-sym", "refer", "truncate", "ioctl-dev",
)  # fmt: skip
"""Of landlock(7), each at its bit."""
_KNOWN_SINCE = ((5, 16), (3, 15), (2, 14), (1, 13))
"""Versions of the kernel's interface, each with how many of these it knows."""


def confine(box: sandbox.Box, places: Iterable[Sequence[str]]) -> None:
    """Irrevocably give up all but what `box` leaves; `places` are its paths that exist (`existing`).

    Raises KernelError: the caller must end then. The caller makes the pid namespace itself (`NEW_PID`, and a fork).
    """
    kinds = _NEW_IPC | _NEW_UTS | (0 if box.network else namespace.NEW_NET)
    namespace.unshare(kinds)
    with Guard("chdir", box.directory):
        os.chdir(box.directory)
    fence = _fence(places)
    _bound(box)
    _give_up_powers(box.uid)
    die_with_parent()  # a change of the user has taken the first one back
    libc.syscall("landlock_restrict_self", _NR_RESTRICT_SELF, fence, 0, what="a fence")
    os.close(fence)
    _filter_calls(callfilter.program(sockets=box.sockets))


def die_with_parent() -> None:
    """Have the calling process killed when the thread that made it ends."""
    libc.call("prctl", _PR_SET_PDEATHSIG, SIGKILL, what="PR_SET_PDEATHSIG")


def _bound(box: sandbox.Box) -> None:
    # Soft and hard alike: the first process of a PID namespace ignores SIGXCPU, which the soft one sends.
    for kind, most in sandbox.bounds(box).items():
        with Guard("setrlimit", kind):
            resource.setrlimit(getattr(resource, f"RLIMIT_{kind.upper()}"), (most, most))


def _give_up_powers(uid: int) -> None:
    """All capabilities, in all sets, and being root unless `uid` is 0."""
    libc.call("prctl", _PR_CAP_AMBIENT, _AMBIENT_CLEAR_ALL, 0, 0, 0, what="PR_CAP_AMBIENT")
    for number in range(_last_capability() + 1):
        libc.call("prctl", _PR_CAPBSET_DROP, number, 0, 0, 0, what=f"PR_CAPBSET_DROP {number}")
    with Guard("setresuid", f"user {uid}"):
        os.setgroups(())
        if uid:
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
    libc.call("capset", struct.pack("<Ii", _CAPABILITIES_V3, 0), _NO_CAPABILITIES, what="no capability")
    libc.call("prctl", _PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0, what="PR_SET_NO_NEW_PRIVS")


def _last_capability() -> int:
    with Guard("read", "cap_last_cap"), open("/proc/sys/kernel/cap_last_cap", encoding="ascii") as file:
        return int(file.read())


def _fence(places: Iterable[Sequence[str]]) -> int:
    """A set of rules of Landlock, in force for a process once it restricts itself by it."""
    create = libc.NR_LANDLOCK_CREATE_RULESET
    version = libc.syscall("landlock_create_ruleset", create, None, 0, _VERSION, what="its version")
    handled = (1 << next(count for since, count in _KNOWN_SINCE if version >= since)) - 1
    fence = libc.syscall("landlock_create_ruleset", create, struct.pack("<Q", handled), 8, 0, what="a fence")
    for path, rights in places:
        try:
            with Guard("open", path):
                fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except FileNotFoundError:
            continue  # it was there when the box was described
        rule = struct.pack("<Qi", _mask(rights) & handled, fd)
        libc.syscall("landlock_add_rule", _NR_ADD_RULE, fence, _BENEATH, rule, 0, what=path)
        os.close(fd)
    return fence


def _mask(rights: str) -> int:
    return sum(1 << _RIGHTS.index(name) for name in rights.split(","))


def _filter_calls(program: bytes) -> None:
    lines = ctypes.create_string_buffer(program, len(program))
    head = struct.pack("<HxxxxxxQ", len(program) // 8, ctypes.addressof(lines))
    libc.call("prctl", _PR_SET_SECCOMP, _MODE_FILTER, head, 0, 0, what="PR_SET_SECCOMP")
