# SPDX-License-Identifier: Apache-2.0
"""A queue of a process's output for one reader, which reads at its own pace.

Used by exec, attach, port forwarding and the log. The guest gets its credit back when the data was read, so a queue
never holds more than the stream's credit, and a slow client slows its own process only.
"""

import asyncio
from collections import deque
from collections.abc import Callable

GiveBack = Callable[[int], None]


SMALL_BYTES = 4096
"""Pieces are put together up to here: a guest may send a byte at a time, and each piece takes memory of its own."""


class Buffer:
    """A piece of output that `waiting` readers have to read before its credit goes back."""

    __slots__ = ("_give_back", "_readers", "data", "waiting")

    def __init__(self, data: bytes, waiting: int, *, give_back: GiveBack) -> None:
        self.data, self.waiting, self._readers, self._give_back = data, waiting, waiting, give_back

    def grow(self, data: bytes, readers: int) -> bool:
        """Append to it, if it is small and none of its readers, so many, has taken it; whether that was done."""
        if self.waiting != self._readers or readers != self._readers or len(self.data) + len(data) > SMALL_BYTES:
            return False
        self.data += data
        return True

    def taken(self) -> None:
        """One reader has read it, or has gone."""
        self.waiting -= 1
        if not self.waiting:
            self._give_back(len(self.data))


class OutputQueue:
    """One reader's queue; also a consumer (`cri.consumers.Consumer`) when that is the only reader of its stream."""

    def __init__(self, give_back: GiveBack) -> None:
        self.give_back = give_back
        self._buffers: deque[Buffer] = deque()
        self._ended = False
        self._moved = asyncio.Event()

    def feed(self, data: bytes, *, seq: int, end: bool) -> int:
        """Queue it; credit is given when it has been read."""
        if data and not (self._buffers and self._buffers[-1].grow(data, 1)):
            self.put(Buffer(data, 1, give_back=self.give_back))
        if end:
            self.finish()
        return 0

    def writing(self) -> None:
        """Return None: nothing is written in the background."""

    def commit(self) -> None:
        """Do nothing: a queue ends with the daemon, so its content is not durable."""

    def put(self, buffer: Buffer) -> None:
        """Queue a piece."""
        self._buffers.append(buffer)
        self._moved.set()

    def finish(self) -> None:
        """End the iteration after what is queued."""
        self._ended = True
        self._moved.set()

    def drop(self) -> None:
        """The reader has gone: credit is given for all that is queued."""
        while self._buffers:
            self._buffers.popleft().taken()

    async def read(self) -> bytes:
        """All that is queued, in order, waiting for the first byte; b"" at the end."""
        while not self._buffers and not self._ended:
            self._moved.clear()
            await self._moved.wait()
        buffers, self._buffers = self._buffers, deque()
        for buffer in buffers:
            buffer.taken()
        return b"".join(buffer.data for buffer in buffers)
