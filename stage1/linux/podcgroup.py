# SPDX-License-Identifier: Apache-2.0
"""The cgroup that a client has made for a pod, by its name (PodSandboxConfig's cgroup_parent): where it is, what it
allows. Called by `placement` for VMMs and by `machine` for pods on the host.

The kubelet makes it before the sandbox, with the pod's limits and weight, and removes it afterwards. Nothing is made.
"""

import os
from typing import NamedTuple

from stage1.errors import BadRequest, KernelError
from stage1.linux import cgroup, files

COUNTED = ("memory", "pids", "cpu", "cpuacct")
"""Controllers of version 1 by which a pod is limited, weighed or counted."""
_MEMORY_LIMITS = ("memory.max", "memory.limit_in_bytes")
_UNLIMITED = 1 << 60
"""The number that cgroup v1 shows without a limit."""


class Allowed(NamedTuple):
    """The cgroup's limits: bytes of memory, processes and threads. 0: no limit of its own."""

    memory_bytes: int = 0
    pids: int = 0


def path_of(parent: str) -> str:
    """The path from the root of the cgroups. The name of a systemd slice, a-b.slice, stands for a.slice/a-b.slice, as
    in systemd; anything else is a path, which can't lead out. Empty for the root.
    """
    path = os.path.normpath(f"/{parent}").strip("/")
    above, name = os.path.split(path)
    if above or not name.endswith(".slice") or name == "-.slice":
        return "" if name == "-.slice" else path
    parts = name.removesuffix(".slice").split("-")
    return "/".join(f"{'-'.join(parts[: number + 1])}.slice" for number in range(len(parts)))


def check_slice(parent: str) -> None:
    """Raise BadRequest unless it names a slice of systemd's, as a kubelet does whose driver is systemd: by the name
    alone, or with the path that this stands for.
    """
    name = os.path.basename(parent)
    if not _is_slice(name) or path_of(parent) != path_of(name):
        raise BadRequest(
            "the cgroup driver is systemd, so cgroup_parent must be the name of a slice, such as a-b.slice, but"
            f' it is {parent[:200]!r}; set cgroup_driver to "cgroupfs", or let the client use systemd too'
        )


def _is_slice(name: str) -> bool:
    """A slice's name as in systemd.slice(5): words between single dashes."""
    stem, dot, _ = name.rpartition(".slice")
    is_named = all(word and all(one.isalnum() or one in ":_.\\" for one in word) for word in stem.split("-"))
    return bool(dot) and name.endswith(dot) and name.isascii() and (stem == "-" or is_named)


def find(parent: str) -> dict[str, str]:
    """The cgroup's path in each hierarchy, as `cgroup.places` names them; none for the root, and where it does not
    exist.
    """
    path = path_of(parent)
    if not path:
        return {}
    tops = {"": cgroup.tree(), **{f".{one}": f"{cgroup.ROOT}/{one}" for one in COUNTED}}
    paths = {kind: f"{top}/{path}" for kind, top in tops.items() if top and os.path.isdir(f"{top}/{path}")}
    if ".cpuacct" in paths and ".cpu" in paths and os.path.samefile(paths[".cpuacct"], paths[".cpu"]):
        del paths[".cpuacct"]
    return paths


def allowed(paths: dict[str, str]) -> Allowed:
    """The limits of the cgroup itself; those of the cgroups above it are for more than one pod."""
    memory = [_number(f"{path}/{name}") for path in paths.values() for name in _MEMORY_LIMITS]
    pids = [_number(f"{path}/pids.max") for path in paths.values()]
    return Allowed(min(filter(None, memory), default=0), min(filter(None, pids), default=0))


def allowed_above(paths: dict[str, str]) -> int:
    """The least limit of memory of the cgroups above it, in bytes; 0 for none."""
    numbers = []
    for path in paths.values():
        above = os.path.dirname(path)
        while cgroup.is_one(above):
            numbers += [_number(f"{above}/{name}") for name in _MEMORY_LIMITS]
            above = os.path.dirname(above)
    return min(filter(None, numbers), default=0)


def limits_memory(path: str) -> bool:
    """Whether the cgroup is in the hierarchy that limits memory."""
    return any(os.path.exists(f"{path}/{name}") for name in _MEMORY_LIMITS)


def controllers(kind: str, path: str) -> frozenset[str]:
    """The controllers of the hierarchy `kind`, as `find` names it."""
    return frozenset({kind.removeprefix(".")}) if kind else cgroup.controllers(path)


def protected_bytes(paths: dict[str, str]) -> int:
    """The memory that version 2 keeps for it: what its containers request, where the kubelet has MemoryQoS."""
    path = paths.get("", "")
    return max(_number(f"{path}/memory.min"), _number(f"{path}/memory.low")) if path else 0


def _number(path: str) -> int:
    """0 for none, which is also what "max" and a file that is not there are."""
    try:
        text = files.read(path).strip()
    except (KernelError, OSError):
        return 0
    return int(text) if text.isdigit() and len(text) < 20 and int(text) < _UNLIMITED else 0
