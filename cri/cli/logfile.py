# SPDX-License-Identifier: Apache-2.0
"""Reads a container's log file in the CRI's format (`cri.logs.entries`), while the daemon writes it. Used by `logs`.

The file is in a directory that a pod may be able to write: it must be a plain file, and no link is followed at its end.
"""

import os
import stat
from collections.abc import Iterator
from types import TracebackType
from typing import NamedTuple

from stage1.errors import NotFound, PodError
from stage1.linux.libc import Guard

READ_BYTES = 1 << 16
MOST_LINE_BYTES = 1 << 20


class Entry(NamedTuple):
    """A line, or a piece of one that goes on. `time` is RFC3339Nano in UTC."""

    time: str
    stream: str
    ends_line: bool
    text: bytes


class LogFile:
    """The file at `path`, a context. Raises NotFound when there is none."""

    def __init__(self, path: str) -> None:
        self._path, self._rest = path, b""
        self._fd = self._open()

    def __enter__(self) -> "LogFile":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._fd)

    def entries(self) -> Iterator[Entry]:
        """What can be read now and was not read yet. What is no entry is passed over."""
        while data := os.read(self._fd, READ_BYTES):
            *lines, self._rest = (self._rest + data).split(b"\n")
            yield from (one for line in lines if (one := parse(line)))
            self._rest = self._rest[:MOST_LINE_BYTES]

    def follow_rotation(self) -> None:
        """Go on in the file that is at the path now, when the one before was renamed or removed and has been read."""
        try:
            now = os.stat(self._path, follow_symlinks=False)
        except OSError:
            return
        if (now.st_dev, now.st_ino) == (os.fstat(self._fd).st_dev, os.fstat(self._fd).st_ino):
            return
        if os.fstat(self._fd).st_size > os.lseek(self._fd, 0, os.SEEK_CUR):
            return
        opened = self._open()
        os.close(self._fd)
        self._fd, self._rest = opened, b""

    def _open(self) -> int:
        try:
            with Guard("open", self._path):
                fd = os.open(self._path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            raise NotFound(f"there is no log file {self._path}; it may have been removed") from None
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise PodError(f"{self._path} is no plain file")
        return fd


def parse(line: bytes) -> Entry | None:
    """TIME STREAM F|P TEXT; None for anything else."""
    parts = line.split(b" ", 3)
    if len(parts) < 4 or parts[1] not in (b"stdout", b"stderr"):
        return None
    time = parts[0].decode("ascii", "replace")
    return Entry(time, parts[1].decode(), b"F" in parts[2].split(b":"), parts[3])
