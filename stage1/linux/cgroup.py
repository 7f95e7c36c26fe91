# SPDX-License-Identifier: Apache-2.0
"""Cgroups of the host: where to make one, its limits, who joins, and its end with all that is in it. See cgroups(7).

Called by the engine and by vm. A pod on the host is in one of version 2, where crun sets limits. A VMM is in one of
version 2 and, where controllers are in hierarchies of version 1, in one of each of those that limit it. How large a
limit is, is not decided here.
"""

import errno
import os
import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from stage1.errors import KernelError, NotFound, TimedOut
from stage1.linux import files, process
from stage1.linux.libc import Guard

ROOT = "/sys/fs/cgroup"
OURS = "clearpod"
"""The cgroup below which VMMs are that have no other parent."""
PERIOD_US = 100_000
_COUNTED = ("cpu", "io", "memory", "pids")
LIMITED = ("memory", "pids", "cpu")
"""Controllers that limit VMMs."""

_DEATH_S = 10.0
_POLL_S = 0.005


class Limits(NamedTuple):
    """The limits of a VMM: `memory_bytes` and no swap, `pids` processes and threads, `cpu_us` of each PERIOD_US."""

    memory_bytes: int
    pids: int
    cpu_us: int


def tree() -> str:
    """The mount point of cgroup v2: ROOT, or a directory in it on a hybrid host; empty if there is none."""
    return next((top for top in (ROOT, f"{ROOT}/unified") if os.path.exists(f"{top}/cgroup.procs")), "")


def controllers(path: str) -> frozenset[str]:
    """The controllers of the cgroup `path`; none if it does not exist."""
    try:
        return frozenset(files.read(f"{path}/cgroup.controllers").decode().split())
    except FileNotFoundError:
        return frozenset()


def limited() -> tuple[str, ...]:
    """Which of LIMITED this host's cgroups have, in either version, for those who may write."""
    tops = places("", "")
    usable = controllers(tops[""]) if "" in tops else frozenset()
    return tuple(one for one in LIMITED if one in usable or f".{one}" in tops)


def place(parent: str, name: str) -> str:
    """The path for a new cgroup `name` below `parent`, or below the root when there is no such parent here.

    The parent hands its controllers down as far as it can. Raises NotFound where cgroup v2 is not mounted.
    """
    top = tree()
    if not top:
        raise NotFound(f"cgroup v2 is mounted neither on {ROOT} nor on {ROOT}/unified; a pod on the host needs it")
    path = os.path.normpath(f"{top}/{parent}")
    above = path if path.startswith(f"{top}/") and os.path.isdir(path) else top
    hand_down(above)
    return f"{above}/{name}"


def _hand_down(above: str, controllers: Sequence[str]) -> None:
    for controller in controllers:
        _write(f"{above}/cgroup.subtree_control", f"+{controller}")


def hand_down(path: str) -> None:
    """Let cgroups below `path`, of version 2, have all controllers that it has, as far as the kernel lets us."""
    _hand_down(path, sorted(controllers(path)))


def kind(path: str) -> str:
    """The hierarchy that a cgroup is in, as `places` names them."""
    top = tree()
    return "" if top and path.startswith(f"{top}/") else f".{path.removeprefix(f'{ROOT}/').partition('/')[0]}"


def places(parent: str, name: str) -> dict[str, str]:
    """Directories for a cgroup `name` below the cgroup `parent`, by hierarchy: "" is version 2, ".memory" that of
    version 1 with the controller memory, and so on. None has to exist. None are given where nothing can be made.

    `parent` is a path from the root of the cgroups, the same in all hierarchies; it can't lead out of them.
    """
    below = "/" + os.path.normpath(f"/{parent}/{name}").lstrip("/")
    tops = {"": tree(), **{f".{one}": f"{ROOT}/{one}" for one in LIMITED}}
    return {key: top + below for key, top in tops.items() if top and _is_writable(top)}


def _is_writable(top: str) -> bool:
    return os.path.exists(f"{top}/cgroup.procs") and os.access(top, os.W_OK)


def make(directories: Mapping[str, str], limits: Limits) -> None:
    """Make the cgroups of `places`, unless they exist, and write the limits, as far as there are controllers for them.

    Undo: `end` for each. Raises KernelError.
    """
    for kind, path in directories.items():
        with Guard("make the cgroup", path):
            if not kind:
                _make_above(path)
            os.makedirs(path, exist_ok=True)
        has_quota = kind == ".cpu" and _has_quota(os.path.dirname(path))
        for file, value in () if has_quota else _values(kind, limits):
            if os.path.exists(f"{path}/{file}"):
                _set(f"{path}/{file}", value)


def _has_quota(path: str) -> bool:
    """Whether a cgroup of version 1 bounds the CPU of those below it, or one above does. Their quota can't be more than
    that, and with one of their own that can't become less, as it does when a pod is resized: so they have none.
    """
    while path.startswith(f"{ROOT}/"):
        try:
            if int(files.read(f"{path}/cpu.cfs_quota_us")) > 0:
                return True
        except FileNotFoundError:
            pass  # the root has none
        path = os.path.dirname(path)
    return False


def _make_above(path: str) -> None:
    """Delegate the controllers: in v2 each cgroup above has to enable them."""
    top, above = tree(), os.path.dirname(path)
    os.makedirs(above, exist_ok=True)
    parts = os.path.relpath(above, top).split("/")
    for number in range(len(parts) + 1):
        _hand_down("/".join((top, *parts[:number])), _COUNTED)


def _values(kind: str, limits: Limits) -> list[tuple[str, str]]:
    """The files of a cgroup and what is written into each, in this order."""
    memory, cpu = str(limits.memory_bytes), str(limits.cpu_us)
    return {
        "": [
            ("memory.max", memory),
            ("memory.swap.max", "0"),
            ("pids.max", str(limits.pids)),
            ("cpu.max", f"{cpu} {PERIOD_US}"),
        ],
        # The second can't be less than the first, nor the first more than the second: so up, in this order.
        ".memory": [("memory.limit_in_bytes", memory), ("memory.memsw.limit_in_bytes", memory)],
        ".pids": [("pids.max", str(limits.pids))],
        ".cpu": [("cpu.cfs_period_us", str(PERIOD_US)), ("cpu.cfs_quota_us", cpu)],
    }.get(kind, [])


def raise_memory(directories: Sequence[str], size_bytes: int) -> None:
    """Let the memory limit of the cgroups be at least `size_bytes`; it is never lowered, which may kill who is in it.

    Raises KernelError.
    """
    for path in directories:
        for name in ("memory.max", "memory.memsw.limit_in_bytes", "memory.limit_in_bytes"):  # not more than the second
            try:
                limit = files.read(f"{path}/{name}").strip()
            except KernelError:
                continue
            if limit.isdigit() and int(limit) < size_bytes:
                _set(f"{path}/{name}", str(size_bytes))


def _set(path: str, value: str) -> None:
    with Guard("write", f"{path} {value}"), open(path, "w", encoding="ascii") as file:
        file.write(value)


def is_one(path: str) -> bool:
    """Whether the path is in a cgroup file system of the host's."""
    return path.startswith(f"{ROOT}/")


def join(path: str, pid: int) -> None:
    """Put process `pid` into the cgroup `path`. Raises KernelError."""
    with Guard("put a VMM into", path), open(f"{path}/cgroup.procs", "w", encoding="ascii") as file:
        file.write(str(pid))


def end(path: str) -> None:
    """Kill all processes in the cgroup and below it, and remove it. Idempotent.

    Raises TimedOut when they do not end, KernelError.
    """
    if not os.path.isdir(path):
        return
    deadline = time.monotonic() + _DEATH_S
    while not _remove(path):
        _kill(path)
        if time.monotonic() > deadline:
            raise TimedOut(f"processes in the cgroup {path} did not end within {_DEATH_S:g} s of SIGKILL; try again")
        time.sleep(_POLL_S)


def _kill(path: str) -> None:
    """All that are in the cgroup and below it; in version 1 one by one."""
    if os.path.exists(f"{path}/cgroup.kill"):
        return _write(f"{path}/cgroup.kill", "1")
    for below, _, _ in os.walk(path):
        for pid in members(below):
            _kill_member(below, pid)
    return None


def _kill_member(path: str, pid: int) -> None:
    try:
        fd = os.pidfd_open(pid)
    except OSError:
        return
    with process.PidHandle(pid, fd) as handle:
        if pid in members(path):  # so the descriptor is of the one that is meant
            handle.kill()


def members(path: str) -> list[int]:
    """The processes in the cgroup; none when it does not exist."""
    try:
        return [int(line) for line in files.read(f"{path}/cgroup.procs").split()]
    except KernelError:
        return []


_SHOWN = (
    "memory.max memory.current memory.peak memory.swap.max pids.max pids.current cpu.max "
    "memory.limit_in_bytes memory.usage_in_bytes memory.max_usage_in_bytes memory.memsw.limit_in_bytes memory.failcnt "
    "cpu.cfs_quota_us cpu.cfs_period_us"
).split()
_SHOWN_LINES = {"cpu.stat": ("usage_usec", "nr_throttled", "throttled_usec", "throttled_time"),
                "memory.events": ("max", "oom", "oom_kill"), "memory.oom_control": ("oom_kill",)}  # fmt: skip


def usage(path: str) -> dict[str, str]:
    """Limits and what is used of them, by the names of the kernel's files; those that this cgroup has."""
    shown = {}
    for name in (*_SHOWN, *_SHOWN_LINES):
        try:
            text = files.read(f"{path}/{name}").decode().strip()
        except (KernelError, OSError):
            continue
        if name in _SHOWN_LINES:
            pairs = (line.split() for line in text.splitlines())
            shown.update({f"{name}.{key}": value for key, value in pairs if key in _SHOWN_LINES[name]})
        else:
            shown[name] = text
    return shown


def _write(path: str, text: str) -> None:
    """Write to a file of a cgroup, best-effort: what comes next notices what could not be delegated or killed."""
    try:
        with open(path, "w", encoding="ascii") as file:
            file.write(text)
    except OSError:
        return


def _remove(path: str) -> bool:
    """False while it has processes; who was killed stays a moment longer."""
    try:
        for below, _, _ in os.walk(path, topdown=False):
            with Guard("rmdir", below):
                os.rmdir(below)
    except KernelError as error:
        if error.errno not in (errno.EBUSY, errno.ENOENT):
            raise
        return error.errno == errno.ENOENT and not os.path.isdir(path)
    return True
