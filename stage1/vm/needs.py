# SPDX-License-Identifier: Apache-2.0
"""What a jail needs and this host lacks. Called by `clearpod check` and by the daemon when it begins, to say it early:
a VMM is never started with less, but for Landlock, which is a second fence. Changes nothing.
"""

import os
from typing import NamedTuple

from stage1.errors import KernelError
from stage1.linux import idmap, libc

_SECCOMP = "/proc/sys/kernel/seccomp/actions_avail"
_VERSION = 1


class Needs(NamedTuple):
    """`missing`: no VMM can be started. `weaker`: it can, with less around it. Sentences, empty when all is there."""

    missing: str = ""
    weaker: str = ""


def find(jailer: str) -> Needs:
    """Ask this host. Raises nothing."""
    if not os.access(jailer, os.X_OK):
        return Needs(f"there is no program {jailer}, which starts VMMs; build it with `clearpod images build`")
    if why := idmap.why_not():
        return Needs(f"a VMM has a user of its own in a user namespace: {why}")
    if not os.path.exists(_SECCOMP):
        return Needs("this kernel has no filters of system calls; use one with CONFIG_SECCOMP_FILTER")
    if not landlock():
        return Needs(
            weaker="this kernel was booted without Landlock, so a VMM has one fence less: add lsm=landlock,..."
        )
    return Needs()


def landlock() -> int:
    """The version of the kernel's Landlock; 0 without it."""
    try:
        return libc.syscall("landlock", libc.NR_LANDLOCK_CREATE_RULESET, None, 0, _VERSION, what="its version")
    except KernelError:
        return 0
