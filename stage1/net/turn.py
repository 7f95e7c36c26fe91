# SPDX-License-Identifier: Apache-2.0
"""Keeps garbage collection apart from pods that are being attached, between processes. Called by attach and upkeep.

The lock is the cache directory's own, held shared by those who attach: they never wait for each other.
"""

import fcntl
import os


class Turn:
    """`with Turn(directory):` no garbage is collected; `alone`: and nobody attaches. On the directory's own lock."""

    def __init__(self, directory: str, *, alone: bool = False) -> None:
        self._directory, self._how = directory, fcntl.LOCK_EX if alone else fcntl.LOCK_SH

    def __enter__(self) -> None:
        self._fd = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        fcntl.flock(self._fd, self._how)

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)
