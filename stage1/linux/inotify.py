# SPDX-License-Identifier: Apache-2.0
"""Tells when a file was written to: inotify(7). Called by who follows a file that somebody else appends to.

Not which bytes: one event stands for many writes.
"""

import os

from stage1.linux import libc

_MODIFY = 2
_EVENTS_BYTES = 65536


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
        """For poll and event loops."""
        return self._fd

    def clear(self) -> None:
        """Forget what was written so far."""
        try:
            os.read(self._fd, _EVENTS_BYTES)
        except BlockingIOError:
            return

    def close(self) -> None:
        """Give the descriptor back. Idempotent."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
