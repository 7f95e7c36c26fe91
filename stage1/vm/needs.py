# SPDX-License-Identifier: Apache-2.0
"""What a jail needs and this host lacks. Called by `clearpod check` and by the daemon at its start, to report it
early: a VMM is never started with less, except for Landlock, which is an additional layer. Changes nothing.
"""

import os
from typing import NamedTuple

from stage1.errors import KernelError, PodError
from stage1.linux import files, idmap, libc, process
from stage1.linux.host import which
from stage1.vm import hypervisors, jail, launch
from stage1.vm.slots import Range
from stage1.vm.spec import SerialLink, Share, VmSpec

_SECCOMP = "/proc/sys/kernel/seccomp/actions_avail"
_VERSION = 1


class Needs(NamedTuple):
    """`missing`: no VMM can be started. `weaker`: it can, with less around it. Sentences, empty when all is there."""

    missing: str = ""
    weaker: str = ""


def find(jailer: str) -> Needs:
    """Gather what this host has for VMs. Never raises."""
    if not os.access(jailer, os.X_OK):
        return Needs(f"there is no program {jailer}, which starts VMMs; build it with `clearpod images build`")
    if why := idmap.why_not():
        return Needs(f"a VMM has a user of its own in a user namespace: {why}")
    if not os.path.exists(_SECCOMP):
        return Needs("this kernel has no seccomp filters; use one with CONFIG_SECCOMP_FILTER")
    if not landlock():
        return Needs(
            weaker="this kernel was booted without Landlock, which confines VMMs further; add lsm=landlock,..."
        )
    return Needs()


def trial(jailer: str, directory: str) -> str:
    """Why the program `true` can't be run in a jail of a pod below `directory`, in a sentence; empty when it can.

    Some 10 ms. It makes a directory there and removes it.
    """
    place = f"{directory}/check-{os.urandom(6).hex()}"
    try:
        files.make_dirs(f"{place}/share/volumes/containers", 0o700)
        try:
            _end(launch.launch(jailer, _nothing(place), descriptors={}, name=place))
        finally:
            files.remove_tree(place)
    except PodError as error:
        return str(error)
    return ""


def _nothing(place: str) -> bytes:
    program, absent = which("true") or "/bin/true", "/none"
    shares = (Share("volumes", f"{place}/share/volumes", read_only=False),)
    ids = (idmap.Extent(0, Range().first, 65536),)
    some = hypervisors.ALL[0]  # any will do: it is `true` that is started
    vm = VmSpec("check", some, program, place, absent, absent, absent, 0, 0, SerialLink(""), shares, ids=ids)
    return jail.describe(vm, jail.Launch([program], {}))


def _end(pid: int) -> None:
    with process.hold(pid) as handle:
        handle.kill()
        handle.wait(10)


def landlock() -> int:
    """The version of the kernel's Landlock; 0 without it."""
    try:
        return libc.syscall("landlock", libc.NR_LANDLOCK_CREATE_RULESET, None, 0, _VERSION, what="its version")
    except KernelError:
        return 0
