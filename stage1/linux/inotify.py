# SPDX-License-Identifier: Apache-2.0
"""Tells when a file was written to, or a directory changed: inotify(7). Used to follow files that other processes
append to, and by the daemon's monitors.

Not which bytes, nor what has changed: one event stands for many.
"""

import os
import struct

from stage1.errors import KernelError
from stage1.linux import libc

_MODIFY = 2
_EVENTS_BYTES = 65536
_HEADER = struct.Struct("iIII")
_IN_CLOSE_WRITE, _IN_MOVED_TO, _IN_OVERFLOW, _IN_IGNORED = 0x8, 0x80, 0x4000, 0x8000


class Watch:
    """A descriptor that is readable when the open file `fd` was written to since the last `clear`. Close it."""

    def __init__(self, fd: int) -> None:
        """Raises Exhausted when this user has no more watches, KernelError."""
        what = f"a watch of descriptor {fd}"
        self._fd = libc.call("inotify_init1", os.O_NONBLOCK | os.O_CLOEXEC, what=what)
        try:
            libc.call("inotify_add_watch", self._fd, os.fsencode(f"/proc/self/fd/{fd}"), _MODIFY, what=what)
        except BaseException:
            self.close()
            raise

    def fileno(self) -> int:
        """Return the descriptor, for poll and event loops."""
        return self._fd

    def clear(self) -> None:
        """Forget what was written so far."""
        try:
            os.read(self._fd, _EVENTS_BYTES)
        except BlockingIOError:
            return

    def close(self) -> None:
        """Close the descriptor. Idempotent."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class Watches:
    """Places that are watched; `fd` can be read when one has changed. `close` ends it."""

    def __init__(self) -> None:
        self.fd = libc.call("inotify_init1", os.O_CLOEXEC | os.O_NONBLOCK, what="a queue")

    def add(self, path: str) -> int:
        """Watch what is there, and return its number; the same place has the same one. Blocks as a look at the path
        does. Raises KernelError: it is not there, or there are no more watches (fs.inotify.max_user_watches).
        """
        return libc.call("inotify_add_watch", self.fd, os.fsencode(path), _IN_CLOSE_WRITE | _IN_MOVED_TO, what=path)

    def remove(self, number: int) -> None:
        """Stop watching it. Idempotent."""
        try:
            libc.call("inotify_rm_watch", self.fd, number, what="a watch")
        except KernelError:
            pass

    def changed(self) -> set[int]:
        """The numbers of the watches with changes since the last call. -1 is among them when the kernel dropped
        events.
        """
        try:
            data = os.read(self.fd, _EVENTS_BYTES)
        except BlockingIOError:
            return set()
        numbers, at = set(), 0
        while at < len(data):
            number, mask, _, length = _HEADER.unpack_from(data, at)
            at += _HEADER.size + length
            if not mask & _IN_IGNORED:
                numbers.add(-1 if mask & _IN_OVERFLOW else number)
        return numbers

    def close(self) -> None:
        """End. Idempotent."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
