# SPDX-License-Identifier: Apache-2.0
"""Reads a container's log file in the CRI's format (`cri.logs.entries`), while the daemon writes it. Used by `logs`.

Below the kubelet's log directory of the pod, pods can write that mount it: it is read as it is written, through
`beneath`.
"""

import os
from collections.abc import Iterator
from contextlib import ExitStack
from types import TracebackType
from typing import NamedTuple

from stage1.errors import NotFound
from stage1.linux import beneath

READ_BYTES = 1 << 16
MOST_LINE_BYTES = 1 << 20


class Entry(NamedTuple):
    """A line, or a piece of one that goes on. `time` is RFC3339Nano in UTC."""

    time: str
    stream: str
    ends_line: bool
    text: bytes


class LogFile:
    """The file at `path`, which is below `directory` or else in its own; a context. Raises NotFound, NotPlain."""

    def __init__(self, path: str, directory: str) -> None:
        root = directory.rstrip("/")
        if not root or not path.startswith(f"{root}/"):
            root = os.path.dirname(path)
        self._rest, self._name = b"", path[len(root) + 1 :]
        try:
            with ExitStack() as undo:
                self._root = undo.enter_context(beneath.Root(root))
                self._fd = self._root.open(self._name)
                self._undo = undo.pop_all()
        except FileNotFoundError:
            raise NotFound(f"there is no log file {path}; it may have been removed") from None

    def __enter__(self) -> "LogFile":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._fd)
        self._undo.close()

    def entries(self) -> Iterator[Entry]:
        """What can be read now and was not read yet. What is no entry is passed over."""
        while data := os.read(self._fd, READ_BYTES):
            *lines, self._rest = (self._rest + data).split(b"\n")
            yield from (one for line in lines if (one := parse(line)))
            self._rest = self._rest[:MOST_LINE_BYTES]

    def follow_rotation(self) -> None:
        """Go on in the file that is at the path now, when the one before was renamed or removed and has been read."""
        now, mine = self._root.stat(self._name), os.fstat(self._fd)
        if now is None or (now.st_dev, now.st_ino) == (mine.st_dev, mine.st_ino):
            return
        if mine.st_size > os.lseek(self._fd, 0, os.SEEK_CUR):
            return
        try:
            opened = self._root.open(self._name)
        except FileNotFoundError:
            return
        os.close(self._fd)
        self._fd, self._rest = opened, b""


def parse(line: bytes) -> Entry | None:
    """TIME STREAM F|P TEXT; None for anything else."""
    parts = line.split(b" ", 3)
    if len(parts) < 4 or parts[1] not in (b"stdout", b"stderr"):
        return None
    time = parts[0].decode("ascii", "replace")
    return Entry(time, parts[1].decode(), b"F" in parts[2].split(b":"), parts[3])
