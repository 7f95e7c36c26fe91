# SPDX-License-Identifier: Apache-2.0
"""A lock between processes on a file, as flock(2). Held until the block ends or the process dies."""

from __future__ import annotations

import fcntl
import os
import time
from types import TracebackType

from stage1.errors import TimedOut, WrongState
from stage1.linux.libc import Guard

_TRY_S = 0.02


def take(fd: int, *, shared: bool = False, wait: bool = True) -> bool:
    """Lock the open file; false when another has it and we do not `wait`. Undo: close it. Raises OSError."""
    try:
        fcntl.flock(fd, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    return True


class Lock:
    """`with Lock(path):` holds the lock. The file is made when absent and never removed."""

    def __init__(self, path: str, *, wait: bool = True, limit_s: float = 0) -> None:
        """A lock on `path`. Entering raises WrongState when another process holds it and `wait` is false, and TimedOut
        when that is still so after `limit_s`, if not 0.
        """
        self._path, self._wait, self._fd = path, wait, -1
        self._limit_s = limit_s

    def __enter__(self) -> Lock:
        with Guard("open", self._path):
            fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            self._take(fd)
        except BaseException:
            os.close(fd)
            raise
        self._fd = fd
        return self

    def _take(self, fd: int) -> None:
        until = time.monotonic() + self._limit_s
        while True:
            with Guard("flock", self._path):
                if take(fd, wait=self._wait and not self._limit_s):
                    return
            if not self._wait:
                raise WrongState(f"{self._path} is locked by another process; stop that first")
            if time.monotonic() >= until:
                raise TimedOut(f"{self._path} is locked by another process since {self._limit_s:g} s")
            time.sleep(_TRY_S)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._fd)
        self._fd = -1
