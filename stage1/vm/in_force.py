# SPDX-License-Identifier: Apache-2.0
"""The jail of a running VMM as the kernel has it, read from /proc. For `clearpod jail` and tests; changes nothing.

What the VMM can influence there (the names in its root) is for people to read, and nothing is opened below it.
"""

import os
from collections.abc import Sequence
from typing import NamedTuple

from stage1.errors import WrongState
from stage1.linux import cgroup, files, idmap, mount, process
from stage1.linux.idmap import Extent
from stage1.linux.libc import Guard
from stage1.pod import capabilities

NAMESPACES = ("user", "mnt", "pid", "net", "ipc", "uts", "cgroup", "time")
SECCOMP = {"0": "off", "1": "strict", "2": "filter"}
_SETS = {
    "CapInh": "inheritable",
    "CapPrm": "permitted",
    "CapEff": "effective",
    "CapBnd": "bounding",
    "CapAmb": "ambient",
}


class Namespace(NamedTuple):
    """`id` is the kernel's name for it; `is_hosts` whether we are in the same one."""

    kind: str
    id: str
    is_hosts: bool


class Place(NamedTuple):
    """A mount of the VMM's root."""

    path: str
    type: str
    is_writable: bool
    is_mapped: bool


class Limit(NamedTuple):
    """A resource limit, as proc_pid_limits(5) has it."""

    name: str
    soft: str
    hard: str


class Group(NamedTuple):
    """A cgroup that the VMM is in, and its files with limits and usage."""

    path: str
    values: dict[str, str]


class InForce(NamedTuple):
    """All of it. `users` and `groups` are the real, effective, saved and file system ids that the host knows."""

    pid: int
    program: str
    users: tuple[int, ...]
    groups: tuple[int, ...]
    supplementary: tuple[int, ...]
    uid_map: tuple[Extent, ...]
    gid_map: tuple[Extent, ...]
    capabilities: dict[str, tuple[str, ...]]
    no_new_privs: bool
    seccomp: str
    seccomp_filters: int
    namespaces: tuple[Namespace, ...]
    root: tuple[str, ...]
    mounts: tuple[Place, ...]
    limits: tuple[Limit, ...]
    cgroups: tuple[Group, ...]


def read(pid: int, start_time: int, *, cgroups: Sequence[str] = ()) -> InForce:
    """Return what confines the VMM `pid`, with the cgroups that it was put into. Raises WrongState when it
    has ended.
    """
    handle = process.open_process(pid, start_time)
    if handle is None:
        raise WrongState(f"the virtual machine (pid {pid}) has ended; it has no confinement any more")
    with handle:
        try:
            jail = _read(pid, cgroups)
        except OSError as error:
            if not handle.alive():
                raise WrongState(f"the virtual machine (pid {pid}) has just ended") from None
            raise error
        if not handle.alive():  # what was read may be of another process
            raise WrongState(f"the virtual machine (pid {pid}) has just ended")
    return jail


def _read(pid: int, cgroups: Sequence[str]) -> InForce:
    status = dict(line.split(":", 1) for line in _text(pid, "status").splitlines())
    with Guard("list the root of", f"process {pid}"):
        root = tuple(sorted(os.listdir(f"/proc/{pid}/root/")))
    return InForce(
        pid=pid,
        program=os.readlink(f"/proc/{pid}/exe"),
        users=_numbers(status["Uid"]),
        groups=_numbers(status["Gid"]),
        supplementary=_numbers(status["Groups"]),
        uid_map=idmap.read_map(pid),
        gid_map=idmap.read_map(pid, "gid_map"),
        capabilities={name: _names(status[key]) for key, name in _SETS.items()},
        no_new_privs=status["NoNewPrivs"].strip() == "1",
        seccomp=SECCOMP.get(status["Seccomp"].strip(), status["Seccomp"].strip()),
        seccomp_filters=int(status.get("Seccomp_filters", "0")),
        namespaces=tuple(_namespace(pid, kind) for kind in NAMESPACES if os.path.lexists(f"/proc/{pid}/ns/{kind}")),
        root=root,
        mounts=_mounts(_text(pid, "mountinfo")),
        limits=_limits(_text(pid, "limits")),
        cgroups=tuple(Group(path, cgroup.usage(path)) for path in cgroups if pid in cgroup.members(path)),
    )


def _text(pid: int, name: str) -> str:
    return files.read(f"/proc/{pid}/{name}").decode(errors="replace")


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split()))


def _names(digits: str) -> tuple[str, ...]:
    """The capabilities in the kernel's order; one that is newer than this program by its number."""
    bits = int(digits, 16)
    known = capabilities.ALL
    return tuple(
        known[number] if number < len(known) else f"CAP_{number}"
        for number in range(bits.bit_length())
        if bits >> number & 1
    )


def _namespace(pid: int, kind: str) -> Namespace:
    there = os.readlink(f"/proc/{pid}/ns/{kind}")
    return Namespace(kind, there, there == os.readlink(f"/proc/self/ns/{kind}"))


def _mounts(mountinfo: str) -> tuple[Place, ...]:
    places = []
    for line in mountinfo.splitlines():
        head, _, tail = line.partition(" - ")
        fields, rest = head.split(), tail.split()
        options, of_the_file_system = fields[5].split(","), rest[-1].split(",")
        is_writable = "rw" in options and "rw" in of_the_file_system
        places.append(Place(mount.unescape(fields[4]), rest[0], is_writable, "idmapped" in options))
    return tuple(places)


def _limits(text: str) -> tuple[Limit, ...]:
    """The columns are as wide as the longest name: "Max realtime priority     0                    0  "."""
    lines = text.splitlines()[1:]
    return tuple(Limit(line[:26].strip().removeprefix("Max "), *line[26:].split()[:2]) for line in lines)
