# SPDX-License-Identifier: Apache-2.0
"""Reads a container's log in the CRI's format (`cri.logs.entries`), while the daemon writes it. Used by `logs`.

The log is the file at its path, and the rotated ones in the same directory: NAME.DATE-TIME, and later
NAME.DATE-TIME.gz. Pods that mount the kubelet's log directory can write there, so files are opened through `beneath`,
and a line that is no entry is skipped.
"""

import gzip
import os
import re
import sys
import zlib
from collections.abc import Iterator
from contextlib import ExitStack
from types import TracebackType
from typing import NamedTuple

from stage1.errors import NotFound, PodError
from stage1.linux import beneath

READ_BYTES = 1 << 16
MOST_LINE_BYTES = 1 << 20
MOST_ROTATED = 1000
"""Files that were put away; kubelet keeps five."""
_ROTATED = re.compile(r"\.\d{8}-\d{6}(\.gz)?")
_DAMAGE = (OSError, EOFError, zlib.error)


class Entry(NamedTuple):
    """A line, or a part of one that continues in the next entry. `time` is RFC3339Nano in UTC."""

    time: str
    stream: str
    ends_line: bool
    text: bytes


class LogFile:
    """The log at `path`, which is below `directory` or else in its own; a context. Raises NotFound, NotPlain."""

    def __init__(self, path: str, directory: str) -> None:
        root = directory.rstrip("/")
        if not root or not path.startswith(f"{root}/"):
            root = os.path.dirname(path)
        self._rest, self._name, self._last = b"", path[len(root) + 1 :], ""
        try:
            with ExitStack() as undo:
                self._root = undo.enter_context(beneath.Root(root))
                self._fd = self._root.open(self._name)
                self._known = self._rotated()
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

    def parts(self, since_s: float = 0.0) -> list[Iterator[Entry]]:
        """The log's parts that can be read now: each rotated file that was written to after `since_s` (1970), oldest
        first, then `entries`. A part is read while it is iterated over.
        """
        return [*(self._whole(name) for name in self._known if self._is_since(name, since_s)), self.entries()]

    def _is_since(self, name: str, since_s: float) -> bool:
        status = self._root.stat(name) or self._root.stat(f"{name}.gz")
        return status is not None and status.st_mtime >= since_s and not self._is_open(name)

    def _is_open(self, name: str) -> bool:
        status = self._root.stat(name)
        return status is not None and os.path.samestat(status, os.fstat(self._fd))

    def entries(self) -> Iterator[Entry]:
        """What can be read now and was not read yet, also in files that were rotated meanwhile."""
        while True:
            yield from self._rest_of_file()
            if not self._is_rotated():
                return
            yield from self._rest_of_file()  # what was written until it was renamed
            for name, after in self._missed():
                yield from (one for one in self._whole(name) if one.time > after)
            if not self._open_next():
                return

    def _rest_of_file(self) -> Iterator[Entry]:
        while data := os.read(self._fd, READ_BYTES):
            *lines, self._rest = (self._rest + data).split(b"\n")
            for one in _parsed(lines):
                self._last = one.time
                yield one
            self._rest = self._rest[:MOST_LINE_BYTES]

    def _is_rotated(self) -> bool:
        """Whether another file is at the path now. There may be none for a moment, or from now on."""
        return self._root.exists(self._name) and not self._is_open(self._name)

    def _missed(self) -> list[tuple[str, str]]:
        """Rotated files after the one that is open, each with the time up to which its entries were read.

        The open one is found by its inode. If it was compressed meanwhile, only times tell which entries are new.
        """
        before, self._known = self._known, self._rotated()
        mine = next((at for at, name in enumerate(self._known) if self._is_open(name)), None)
        if mine is not None:
            return [(name, "") for name in self._known[mine + 1 :]]
        return [(name, self._last) for name in self._known if name not in before]

    def _open_next(self) -> bool:
        try:
            opened = self._root.open(self._name)
        except FileNotFoundError:
            return False
        os.close(self._fd)
        self._fd, self._rest = opened, b""
        return True

    def _rotated(self) -> list[str]:
        """Return the rotated files of the log, oldest first, without their .gz."""
        directory, _, base = self._name.rpartition("/")
        names = self._root.names(directory or ".")
        mine = [name for name in names if name.startswith(base) and _ROTATED.fullmatch(name[len(base) :])]
        stems = sorted({name.removesuffix(".gz") for name in mine})[-MOST_ROTATED:]
        return [f"{directory}/{name}" if directory else name for name in stems]

    def _whole(self, name: str) -> Iterator[Entry]:
        """All entries of a file that was put away, as far as it can be read."""
        try:
            fd, is_packed = self._opened(name)
            with os.fdopen(fd, "rb") as raw:
                file, rest = gzip.GzipFile(fileobj=raw) if is_packed else raw, b""
                while data := file.read(READ_BYTES):
                    *lines, rest = (rest + data).split(b"\n")
                    yield from _parsed(lines)
                    rest = rest[:MOST_LINE_BYTES]
        except FileNotFoundError:
            pass  # the kubelet has just removed it
        except (PodError, *_DAMAGE) as error:
            sys.stderr.write(f"clearpod: warning: the rest of {name} can't be read: {error}\n")

    def _opened(self, name: str) -> tuple[int, bool]:
        """The file itself, or what it was compressed to, and which it is. Raises FileNotFoundError, NotPlain."""
        try:
            return self._root.open(name), False
        except FileNotFoundError:
            return self._root.open(f"{name}.gz"), True


def _parsed(lines: list[bytes]) -> Iterator[Entry]:
    return (one for line in lines if (one := parse(line)))


def parse(line: bytes) -> Entry | None:
    """TIME STREAM F|P TEXT; None for anything else."""
    parts = line.split(b" ", 3)
    if len(parts) < 4 or parts[1] not in (b"stdout", b"stderr"):
        return None
    time = parts[0].decode("ascii", "replace")
    return Entry(time, parts[1].decode(), b"F" in parts[2].split(b":"), parts[3])
