# SPDX-License-Identifier: Apache-2.0
"""Space that the daemon keeps for itself on a disk, and gives up bit by bit when it must write to be able to remove.

A file of the state directory, whose blocks are allocated. Used by the node, in threads. Nothing that makes something
may spend it: it would be gone when it is needed.
"""

import os
import threading
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from stage1.errors import DiskFailed, NoSpace
from stage1.linux import files
from stage1.linux.libc import Guard

P = ParamSpec("P")
T = TypeVar("T")

SHARES = 8
"""It is given up in so many parts: others write to the disk as well, and would take all of it at once."""
HEADROOM = 2
"""Filled up only when so many times of what is missing is free: it is not to be what fills the disk."""


class Reserve:
    """The file `path` of `size_bytes`; 0: there is none. It is not there until `fill` has made it."""

    def __init__(self, path: str, size_bytes: int) -> None:
        self._path, self._size = path, size_bytes
        self._lock = threading.Lock()

    def held_bytes(self) -> int:
        """The current size of the reserve."""
        try:
            return os.stat(self._path).st_blocks * 512
        except FileNotFoundError:
            return 0

    def fill(self) -> bool:
        """Make or fill up the file, if there is room for that; whether all of it is kept now."""
        with self._lock:
            try:
                return self._fill()
            except (NoSpace, DiskFailed):
                return False

    def spend(self, work: Callable[P, T], /, *args: P.args, **options: P.kwargs) -> T:
        """The result of `work`, which is retried while it raises NoSpace and there was some space to release."""
        while True:
            try:
                return work(*args, **options)
            except NoSpace:
                if not self.give():
                    raise

    def give(self) -> bool:
        """Free a part; whether there was any."""
        with self._lock:
            held = self._length()
            try:
                self._cut(max(0, held - max(self._size // SHARES, 1)))
            except (FileNotFoundError, DiskFailed):
                return False
            return held > 0

    def _fill(self) -> bool:
        if self._length() > self._size:  # a smaller one is wanted than before
            self._cut(self._size)
        if missing := self._size - self._length():
            files.make_dirs(os.path.dirname(self._path), 0o700)
            disk = os.statvfs(os.path.dirname(self._path))
            if disk.f_bavail * disk.f_frsize >= HEADROOM * missing:
                self._allocate()
        return self._length() >= self._size

    def _length(self) -> int:
        try:
            return os.path.getsize(self._path)
        except FileNotFoundError:
            return 0

    def _allocate(self) -> None:
        with Guard("fallocate", self._path):
            fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            before = os.fstat(fd).st_size
            try:
                os.posix_fallocate(fd, 0, self._size)
            except BaseException:
                os.ftruncate(fd, before)
                raise
            finally:
                os.close(fd)

    def _cut(self, size: int) -> None:
        with Guard("truncate", self._path):
            os.truncate(self._path, size)
