# SPDX-License-Identifier: Apache-2.0
"""Faults of the host that are no deaths, done to a real daemon from outside while it stands at a point: no descriptor,
no process, no room on the disk, a disk that is read-only or does not go on. Each is undone a moment later.
"""

import contextlib
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import NamedTuple

from stage1.linux import mount
from tests.fakes import exhausted
from tests.faults.instant import InstantNode

HOLD_S = 0.4
"""How long a fault lasts, if the operation does not end before."""
_CHANGES = ("write", "mkdir", "rename", "link", "symlink", "unlink", "rmdir", "truncate")

Fault = Callable[[InstantNode, int], AbstractContextManager[None]]


class Kind(NamedTuple):
    """`fault` begins it for the daemon of that pid, and ends it with the block. `at` are the words of points at which
    it makes sense, none: all. `is_harmless`: nothing may fail for it.
    """

    name: str
    fault: Fault
    at: tuple[str, ...] = ()
    is_harmless: bool = False
    leaves: tuple[str, ...] = ()
    """Kinds of what may stay until the disk, or the host, works again."""

    def fits(self, point: str) -> bool:
        """Whether it makes sense there."""
        return not self.at or any(f" {word}" in point for word in self.at)


@contextlib.contextmanager
def full_disk(node: InstantNode, pid: int) -> Iterator[None]:
    """The state directory's disk has no block left."""
    del pid
    node.disk.fill()
    try:
        yield
    finally:
        node.disk.free()


@contextlib.contextmanager
def read_only_disk(node: InstantNode, pid: int) -> Iterator[None]:
    """What is opened in the state directory can't be written; what is open already can."""
    del pid
    mount.bind(node.state_dir, node.state_dir, read_only=True)
    try:
        yield
    finally:
        mount.umount(node.state_dir, lazy=True)


@contextlib.contextmanager
def hanging_disk(node: InstantNode, pid: int) -> Iterator[None]:
    """Who writes to the state directory's disk waits until the end."""
    del pid
    subprocess.run(["fsfreeze", "--freeze", node.state_dir], check=True, timeout=60)
    try:
        yield
    finally:
        subprocess.run(["fsfreeze", "--unfreeze", node.state_dir], check=True, timeout=60)


KINDS = (
    Kind("no descriptors", lambda node, pid: exhausted.no_descriptors(pid)),
    Kind("no processes", lambda node, pid: exhausted.no_processes(pid), ("spawn", "asks", "unshare", "mkdir")),
    Kind("a full disk", full_disk, _CHANGES),
    Kind("a read-only disk", read_only_disk, _CHANGES, leaves=("state_dir/scratch", "network records", "address")),
    Kind("a disk that hangs", hanging_disk, (*_CHANGES, "asks"), is_harmless=True),
)
