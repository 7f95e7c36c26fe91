# SPDX-License-Identifier: Apache-2.0
"""Runs one confined program that gets its input piece by piece, and ends it as `supervise` does.

Called by `rootfs`, on both sides: by who feeds a reader of layers, and by that for mkfs.erofs.
"""

import errno
import os
import select
import time
from collections.abc import Callable
from typing import NamedTuple

from stage1.errors import KernelError, TimedOut
from stage1.linux import libc, supervise
from stage1.linux.supervise import Start

_SPLICE_F_NONBLOCK = 2


class Pace(NamedTuple):
    """The time limit of a program, by the size of its input."""

    base_s: float
    bytes_per_s: float


class Fed:
    """A program that gets its standard input piece by piece, while what it writes is kept. Close it."""

    def __init__(
        self,
        start: Start,
        pace: Pace,
        *,
        most_bytes: int = supervise.CHUNK_BYTES,
        check: Callable[[], None] = supervise.nothing,
    ) -> None:
        """`start` and `check` as in a `Job`; of its standard output `most_bytes` and a piece are kept.

        Raises KernelError.
        """
        self.given = 0
        """Bytes."""
        self.text = bytearray()
        """Its standard output so far."""
        self._pace, self._most_bytes, self._check = pace, most_bytes, check
        self._tail, self._waited_s, self._checked_s = bytearray(), 0.0, time.monotonic()
        self._child, (self._in, self._out, self._err) = supervise.started(start)
        self._poll, self._reading = select.poll(), {self._out, self._err}
        supervise.widen(self._in)
        for fd in (self._in, self._out, self._err):
            os.set_blocking(fd, False)
            self._poll.register(fd, select.POLLOUT if fd == self._in else select.POLLIN)

    def give(self, data: bytes | memoryview) -> None:
        """Let it have `data`; in vain once it takes no more. Raises TimedOut, what `check` raises."""
        view = memoryview(data)
        self.given += len(view)
        self._check_at_times()
        while view and self._in >= 0:
            try:
                view = view[os.write(self._in, view) :]
            except BlockingIOError:
                self._attend()
            except BrokenPipeError:
                self._shut()

    def move(self, source: int, size: int) -> int:
        """Let it have up to `size` bytes that come by the pipe `source`, unseen; how many it took before it takes no
        more, or they end. Waits for them without a limit. Raises as `give`.
        """
        left = size
        while left and self._in >= 0:
            self._check_at_times()
            try:
                count = os.splice(source, self._in, left)
            except BlockingIOError:
                if _is_readable(source):
                    self._attend()
            except BrokenPipeError:
                self._shut()
            else:
                if not count:
                    break
                left -= count
                self.given += count
        return size - left

    def copy(self, source: int, most: int) -> int:
        """Let it have up to `most` of what is in the pipe `source`, which stays there; how many bytes, 0 when it takes
        no more. There must be some. Raises as `give`.
        """
        while self._in >= 0:
            self._check_at_times()
            try:
                count = libc.call("tee", source, self._in, most, _SPLICE_F_NONBLOCK, what="a program's input")
            except KernelError as error:
                if error.errno == errno.EAGAIN:
                    self._attend()
                elif error.errno == errno.EPIPE:
                    self._shut()
                else:
                    raise
            else:
                self.given += count
                return count
        return 0

    def finish(self) -> supervise.Ended:
        """Tell it that this was all, and wait for its end. Raises as `give`."""
        self._shut()
        while self._reading:
            self._attend()
        while not self._child.wait(supervise.TICK_S):
            self._waited_s += supervise.TICK_S
            self._check_now()
        return supervise.Ended(
            -1 if self._child.exit_code is None else self._child.exit_code, supervise.last_line(bytes(self._tail))
        )

    def _attend(self) -> None:
        """Wait until it takes or writes something, and keep what it writes."""
        begun_s = time.monotonic()
        ready = {fd for fd, _ in self._poll.poll(supervise.TICK_S * 1000)}
        now_s = time.monotonic()
        self._waited_s += now_s - begun_s
        for fd in ready & self._reading:
            self._keep(fd, os.read(fd, supervise.CHUNK_BYTES))
        self._check_at_times()

    def _keep(self, fd: int, data: bytes) -> None:
        if not data:
            self._reading.remove(fd)
            self._poll.unregister(fd)
        elif fd == self._err:
            self._tail += data
            del self._tail[: -supervise.TAIL_BYTES]
        elif len(self.text) <= self._most_bytes:
            self.text += data

    def _check_at_times(self) -> None:
        if time.monotonic() - self._checked_s >= supervise.TICK_S:
            self._check_now()

    def _check_now(self) -> None:
        self._checked_s = time.monotonic()
        most_s = self._pace.base_s + self.given / self._pace.bytes_per_s
        if self._waited_s >= most_s:
            raise TimedOut(f"a confined program took more than {most_s:.0f} s and was killed; try again later")
        self._check()

    def _shut(self) -> None:
        if self._in >= 0:
            self._poll.unregister(self._in)
            os.close(self._in)
            self._in = -1

    def close(self) -> None:
        """Kill it, if it has not ended, and give back what belongs to it. Once."""
        supervise.end(self._child)
        self._shut()
        self._child.close()
        os.close(self._out)
        os.close(self._err)


def _is_readable(fd: int) -> bool:
    """Wait for what can be read, or the end; true."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll())
