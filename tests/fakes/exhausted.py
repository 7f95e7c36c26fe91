# SPDX-License-Identifier: Apache-2.0
"""A process that has no descriptor left, or may start no other: done to it from outside, by its limits, for a while."""

import contextlib
import os
import resource
from collections.abc import Iterator
from pathlib import Path

_PIDS = ("/sys/fs/cgroup/pids", "/sys/fs/cgroup")


@contextlib.contextmanager
def no_descriptors(pid: int) -> Iterator[None]:
    """It can open nothing more (EMFILE), until it closes something."""
    listed = os.listdir(f"/proc/{pid}/fd")
    taken = {int(name) for name in listed if os.path.lexists(f"/proc/{pid}/fd/{name}")}  # one may be of the listing
    least = next(number for number in range(len(taken) + 1) if number not in taken)
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (least, before[1]))
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            resource.prlimit(pid, resource.RLIMIT_NOFILE, before)


@contextlib.contextmanager
def no_processes(pid: int) -> Iterator[None]:
    """It can start no process and no thread (EAGAIN), as when a unit's TasksMax is reached. Needs root."""
    top = next(Path(path) for path in _PIDS if Path(path, "cgroup.procs").exists())
    place = top / f"t-exhausted-{pid}"
    place.mkdir()
    try:
        if not (place / "pids.max").exists():  # version 2
            (top / "cgroup.subtree_control").write_text("+pids")
        (place / "cgroup.procs").write_text(str(pid))
        (place / "pids.max").write_text((place / "pids.current").read_text())
        yield
    finally:
        for one in (place / "cgroup.procs").read_text().split():
            with contextlib.suppress(ProcessLookupError):
                (top / "cgroup.procs").write_text(one)
        place.rmdir()
