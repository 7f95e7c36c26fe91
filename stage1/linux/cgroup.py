# SPDX-License-Identifier: Apache-2.0
"""A cgroup of version 2 of the host: where to make one, who joins, and its end with all that is in it. Called by the
engine and by vm, for VMMs and for pods that run on the host. See cgroups(7). Limits are not set here: crun does that
for containers on the host, and a VM has its size.
"""

import errno
import os
import time

from stage1.errors import KernelError, NotFound, TimedOut
from stage1.linux import files
from stage1.linux.libc import Guard

ROOT = "/sys/fs/cgroup"
OURS = "clearpod"
"""The cgroup below which VMMs are."""
_COUNTED = ("cpu", "io", "memory", "pids")
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

_DEATH_S = 10.0
_LOOK_S = 0.005


def tree() -> str:
    """Where version 2 is mounted: ROOT, or in it beside version 1; empty where there is none."""
    return next((top for top in (ROOT, f"{ROOT}/unified") if os.path.exists(f"{top}/cgroup.procs")), "")


def controllers(path: str) -> frozenset[str]:
    """What the cgroup `path` can limit; nothing when it does not exist."""
    try:
        return frozenset(files.read(f"{path}/cgroup.controllers").decode().split())
    except FileNotFoundError:
        return frozenset()


def place(parent: str, name: str) -> str:
    """The path for a new cgroup `name` below `parent`, or below the root when there is no such parent here.

    The parent hands its controllers down as far as it can. Raises NotFound where cgroup v2 is not mounted.
    """
    top = tree()
    if not top:
        raise NotFound(f"cgroup v2 is mounted neither on {ROOT} nor on {ROOT}/unified; a pod on the host needs it")
    wanted = os.path.normpath(f"{top}/{parent}")
    above = wanted if wanted.startswith(f"{top}/") and os.path.isdir(wanted) else top
    _hand_down(above, sorted(controllers(above)))
    return f"{above}/{name}"


def _hand_down(above: str, wanted: "Sequence[str]") -> None:
    for controller in wanted:
        _write(f"{above}/cgroup.subtree_control", f"+{controller}")


def place_ours(name: str) -> str:
    """The path for a cgroup `name` below OURS, which is made and counts what is in it; empty without cgroup v2.

    Not below a pod's own parent: the limits that the kubelet sets there are the containers', without their guest.
    """
    top = tree()
    if not top:
        return ""
    with Guard("mkdir", f"{top}/{OURS}"):
        os.makedirs(f"{top}/{OURS}", exist_ok=True)
    for above in (top, f"{top}/{OURS}"):
        _hand_down(above, _COUNTED)
    return f"{top}/{OURS}/{name}"


def is_one(path: str) -> bool:
    """Whether the path is in a cgroup file system of the host's."""
    return path.startswith(f"{ROOT}/")


def join(path: str, pid: int) -> None:
    """Make the cgroup `path`, unless it exists, and put process `pid` there. Raises KernelError."""
    with Guard("put a VMM into", path):
        os.makedirs(path, exist_ok=True)
        with open(f"{path}/cgroup.procs", "w", encoding="ascii") as file:
            file.write(str(pid))


def end(path: str) -> None:
    """Kill all processes in the cgroup and below it, and remove it; gone already is fine.

    Raises TimedOut when they do not end, KernelError.
    """
    if not os.path.isdir(path):
        return
    _write(f"{path}/cgroup.kill", "1")
    deadline = time.monotonic() + _DEATH_S
    while not _remove(path):
        if time.monotonic() > deadline:
            raise TimedOut(f"processes in the cgroup {path} did not end within {_DEATH_S:g} s of SIGKILL")
        time.sleep(_LOOK_S)


def _write(path: str, text: str) -> None:
    """As far as the kernel lets us: what can't be handed down or killed is seen by what follows."""
    try:
        with open(path, "w", encoding="ascii") as file:
            file.write(text)
    except OSError:
        return


def _remove(path: str) -> bool:
    """False while somebody is in it; who was killed stays a moment longer."""
    try:
        for below, _, _ in os.walk(path, topdown=False):
            with Guard("rmdir", below):
                os.rmdir(below)
    except KernelError as error:
        if error.errno not in (errno.EBUSY, errno.ENOENT):
            raise
        return error.errno == errno.ENOENT and not os.path.isdir(path)
    return True
