# SPDX-License-Identifier: Apache-2.0
"""Output of a process on its way to a client that reads at its own pace.

Used by exec, attach, port forwarding and the log. The guest gets its credit back when the data was taken, so what waits
here is never more than the stream's credit, and a slow client slows the process and nobody else.
"""

import asyncio
from collections import deque
from collections.abc import Callable

GiveBack = Callable[[int], None]


SMALL_BYTES = 4096
"""Pieces are put together up to here: a guest may send a byte at a time, and each piece takes memory of its own."""


class Portion:
    """A piece of output that `waiting` readers have to take before its credit goes back."""

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
        """One reader has it, or wants it no more."""
        self.waiting -= 1
        if not self.waiting:
            self._give_back(len(self.data))


class Outlet:
    """One reader's queue; also a consumer (`cri.agent.Consumer`) that is the only reader of its stream."""

    def __init__(self, give_back: GiveBack) -> None:
        self.give_back = give_back
        self._portions: deque[Portion] = deque()
        self._ended = False
        self._moved = asyncio.Event()

    def feed(self, data: bytes, *, seq: int, end: bool) -> int:
        """Take all of it later."""
        if data and not (self._portions and self._portions[-1].grow(data, 1)):
            self.put(Portion(data, 1, give_back=self.give_back))
        if end:
            self.finish()
        return 0

    def commit(self) -> None:
        """Nothing to make durable: it ends with the daemon."""

    def put(self, portion: Portion) -> None:
        """Queue a piece."""
        self._portions.append(portion)
        self._moved.set()

    def finish(self) -> None:
        """Nothing more comes."""
        self._ended = True
        self._moved.set()

    def drop(self) -> None:
        """The reader is gone."""
        while self._portions:
            self._portions.popleft().taken()

    async def read(self) -> bytes:
        """Everything that is there, in order; b"" when nothing will come any more."""
        while not self._portions and not self._ended:
            self._moved.clear()
            await self._moved.wait()
        portions, self._portions = self._portions, deque()
        for portion in portions:
            portion.taken()
        return b"".join(portion.data for portion in portions)
