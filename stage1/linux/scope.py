# SPDX-License-Identifier: Apache-2.0
"""Scopes of systemd's: units for processes that systemd has not started, each with a cgroup that is delegated. Called
by `placement`, where the cgroup driver is systemd.

A VMM's cgroup is `vm` in its scope's, and what we write is written there: the scope's own files are systemd's, which
writes them again when it likes. A scope without a process ends, so one that is ours is in it until the VMM is; and ends
with us, so that an empty scope is removed whenever we die. A scope need not be stopped: it ends with its last
process, and systemd removes what is left of it.
"""

from __future__ import annotations

import os
import select
import time
from collections.abc import Iterable
from types import TracebackType

from stage1.errors import WrongState
from stage1.linux import cgroup, dbus, process
from stage1.linux.libc import Guard

INNER = "vm"
_WAITING = "start"
"""A cgroup beside INNER for the process that keeps the scope: a cgroup that delegates controllers can't have
processes.
"""
_SYSTEMD_S, _ENTERED_S, _POLL_S, _DEATH_S = 5.0, 5.0, 0.005, 10.0
_NO_LIMIT = (1 << 64) - 1


def are_used(driver: str) -> bool:
    """Whether the cgroup driver is systemd. It is by "auto" where cgroups are of version 2 alone, as the kubelet's then
    should be, and systemd is there to be asked.
    """
    return driver == "systemd" or (driver == "auto" and cgroup.tree() == cgroup.ROOT and not dbus.why_not())


def inside(above: str, name: str) -> str:
    """The cgroup for what is in the scope `name` below the cgroup of a slice; nothing of it has to exist."""
    return f"{above}/{name}.scope/{INNER}"


def of(path: str) -> str:
    """The cgroup of the scope whose inside `path` is; empty when it is in none."""
    above, name = os.path.split(path)
    return above if name == INNER and above.endswith(".scope") else ""


def begin(paths: Iterable[str], pid: int) -> None:
    """Make the scope that `paths` are inside of, the same one in some hierarchies, with the process `pid` in it.

    In version 2 INNER is there then. Undo: the end of the process.
    Raises Unavailable, WrongState (see `dbus.do_job`), KernelError.
    """
    places = sorted({of(path) for path in paths})
    above, unit = os.path.split(places[0])
    properties = [
        ("Description", ("s", "A pod of clearpod")),
        ("Slice", ("s", os.path.basename(above))),
        ("PIDs", ("au", [pid])),
        ("Delegate", ("b", True)),
        ("DefaultDependencies", ("b", False)),  # else it ends at shutdown before the kubelet could end its pods
        ("CollectMode", ("s", "inactive-or-failed")),
        ("TasksMax", ("t", _NO_LIMIT)),
    ]
    dbus.do_job("StartTransientUnit", "ssa(sv)a(sa(sv))", unit, "fail", properties, [])
    made = [place for place in places if os.path.isdir(place)]
    if not made:
        raise WrongState(f"systemd has made {unit}, but not as {places[0]}: is {above} a slice of its own?")
    for place in made:
        if os.path.exists(f"{place}/cgroup.controllers"):
            with Guard("make cgroups in", place):
                for name in (_WAITING, INNER):
                    os.makedirs(f"{place}/{name}", exist_ok=True)
            cgroup.join(f"{place}/{_WAITING}", pid)
            cgroup.hand_down(place)


def limit_slice(parent: str, memory_bytes: int) -> None:
    """Let a slice allow so much memory. systemd has to know: it writes the limit that it knows again when it likes.
    Raises Unavailable, WrongState.
    """
    limit = [("MemoryMax", ("t", memory_bytes))]
    dbus.call("SetUnitProperties", "sba(sv)", os.path.basename(parent.rstrip("/")), True, limit)


class Keeper:
    """A process that does nothing, to be in a scope for a while; it ends with us, or with the block."""

    def __enter__(self) -> Keeper:
        ((read, self._write),) = process.pipes(1, "for who keeps a scope")
        try:
            self.pid = process.spawn(["cat"], stdin=read)
        except BaseException:
            os.close(self._write)
            raise
        finally:
            os.close(read)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._write)
        with process.hold(self.pid) as handle:
            handle.kill()
            handle.wait(_DEATH_S)


def see_entered(path: str) -> None:
    """Wait until a process is in the cgroup of version 2 or below it, but not for long: it may have ended already."""
    deadline, poll = time.monotonic() + _ENTERED_S, select.poll()
    with open(f"{path}/cgroup.events", encoding="ascii") as file:
        poll.register(file, select.POLLPRI)
        while "populated 1" not in file.read() and (left_s := deadline - time.monotonic()) > 0:
            poll.poll(left_s * 1000)
            file.seek(0)


def see_removed(path: str) -> None:
    """Wait until systemd has removed the scope that `path` was inside of, whose processes have ended.

    When we remove it first systemd does not see its end, and keeps the unit; so that is for a systemd that hangs.
    """
    place, deadline = of(path), time.monotonic() + _SYSTEMD_S
    while place and os.path.isdir(place):
        if time.monotonic() > deadline:
            return cgroup.end(place)
        time.sleep(_POLL_S)
    return None
