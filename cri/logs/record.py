# SPDX-License-Identifier: Apache-2.0
"""A commit record of a log: two files that take turns, so that one of them is whole whenever the daemon is killed
(docs/design/streams.md).

Used by the writer. `open` and `remove` block; `write` only writes to files that are open already, so that it may be
called on the event loop for each batch. A file is a line with a checksum and a length, and as many bytes of JSON; the
record with the higher number counts. No fsync: the files are in `/run`, which ends with the boot.
"""

import errno
import json
import os
import zlib
from typing import Any

from stage1.errors import KernelError, PodError
from stage1.linux import beneath
from stage1.linux.libc import Guard

_SLOTS = (".0", ".1")
_MOST_BYTES = 256 << 20


class CommitRecord:
    """The files `logs/<name>.0` and `.1` in the pod's directory."""

    def __init__(self, directory: str, name: str) -> None:
        self._directory, self._name = directory, f"logs/{name}"
        self._fds: list[int] = []
        self._sizes = [0, 0]
        self._number = 0

    def open(self, *, is_new: bool = False) -> dict[str, Any] | None:
        """Open or make the files; the record, None when there is none that is whole, or the container `is_new`. Raises
        NotPlain, KernelError.
        """
        with beneath.Root(self._directory) as root:
            try:
                self._open_files(root, is_new=is_new)
            except FileNotFoundError:
                root.make_directories("logs", 0o700)
                self._open_files(root, is_new=is_new)
            self._sizes = [os.fstat(fd).st_size for fd in self._fds]
            if is_new and not any(self._sizes):
                return None
            records = [_load(fd) for fd in self._fds]
            newest = max((one for one in records if one), key=lambda one: int(one["n"]), default=None)
            if newest is None:
                return _former(root, f"{self._name}.json")
        self._number = int(newest["n"])
        return newest

    def _open_files(self, root: beneath.Root, *, is_new: bool) -> None:
        try:
            for slot in _SLOTS:
                self._fds.append(root.open_or_make(self._name + slot, os.O_RDWR, mode=0o600, is_new=is_new))
        except BaseException:
            self.close()
            raise

    def write(self, record: dict[str, Any]) -> None:
        """Replace the record. Raises NoSpace, KernelError; the old one counts then."""
        if not self._fds:
            raise KernelError("write", errno.EBADF, f"{self._directory}/{self._name}, which is not open")
        slot = (self._number + 1) % 2
        body = json.dumps({**record, "n": self._number + 1}).encode()
        data = b"%08x %d\n%b" % (zlib.crc32(body), len(body), body)
        with Guard("write", f"{self._directory}/{self._name}{_SLOTS[slot]}"):
            if os.pwrite(self._fds[slot], data, 0) != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            if self._sizes[slot] > len(data):
                os.ftruncate(self._fds[slot], len(data))
        self._sizes[slot] = len(data)
        self._number += 1

    def close(self) -> None:
        """Close the descriptors."""
        while self._fds:
            os.close(self._fds.pop())

    def remove(self) -> None:
        """Remove the files. Idempotent."""
        self.close()
        try:
            with beneath.Root(self._directory) as root:
                first, *others = (self._name + slot for slot in (*_SLOTS, ".json"))
                root.unlink(first, *map(os.path.basename, others))
        except FileNotFoundError:
            return


def _load(fd: int) -> dict[str, Any] | None:
    head, _, body = os.pread(fd, min(os.fstat(fd).st_size, _MOST_BYTES), 0).partition(b"\n")
    fields = head.split()
    try:
        if (
            len(fields) != 2
            or len(body) < (length := int(fields[1]))
            or zlib.crc32(body[:length]) != int(fields[0], 16)
        ):
            return None
        document = json.loads(body[:length])
        return document if isinstance(document, dict) and isinstance(document.get("n"), int) else None
    except (ValueError, RecursionError):
        return None


def _former(root: beneath.Root, path: str) -> dict[str, Any] | None:
    """The record in the form of clearpod 0.x, before it was split into two files."""
    try:
        document = json.loads(root.read(path, most=_MOST_BYTES))
    except (PodError, ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None
