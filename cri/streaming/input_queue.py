# SPDX-License-Identifier: Apache-2.0
"""The input queue of a client's streams: data that was received and not read yet. Bounded: reading from the client
pauses until there is space.
"""

import asyncio
from collections.abc import Awaitable, Callable

HIGH_BYTES = 256 * 1024
"""The limit of data queued on a stream; one read of the socket may be added."""
MOST_BYTES = 1 << 20
"""The limit of data queued on all streams of a client's connection, which may have a thousand."""
CHECK_S = 1.0
"""How often it is checked whether a client that is kept waiting is still connected."""


class Backlog:
    """How much waits on all streams of one connection; `moved` is set when something was taken."""

    def __init__(self) -> None:
        self.bytes, self.moved = 0, asyncio.Event()

    def take(self, count: int) -> None:
        """Note that this much was read."""
        self.bytes -= count
        self.moved.set()


class InputQueue:
    """One direction of a stream; `total` counts the bytes that came. `finish` and `close` are idempotent."""

    def __init__(self, backlog: Backlog | None = None) -> None:
        self._data, self.total = bytearray(), 0
        self._ended = self._closed = False
        self._moved, self._backlog = asyncio.Event(), backlog or Backlog()

    def put(self, data: bytes) -> None:
        """Append data of the client; it is dropped after `close`."""
        if data and not self._closed:
            self._data += data
            self._backlog.bytes += len(data)
            self.total += len(data)
            self._moved.set()

    def finish(self) -> None:
        """The client sends nothing more."""
        self._ended = True
        self._moved.set()

    def close(self) -> None:
        """The reader has gone: what is queued and what follows is dropped."""
        self._closed = self._ended = True
        self._take()
        self._moved.set()

    async def read(self) -> bytes:
        """All that is queued, in order, waiting for the first byte; b"" at the end."""
        while not self._data and not self._ended:
            self._moved.clear()
            await self._moved.wait()
        return self._take()

    def _take(self) -> bytes:
        data = bytes(self._data)
        self._data.clear()
        self._backlog.take(len(data))
        return data

    async def wait_for_space(self, is_alive: Callable[[], Awaitable[bool]]) -> None:
        """Wait until more may be queued. Raises ConnectionResetError when the client has gone meanwhile."""
        while len(self._data) > HIGH_BYTES or self._backlog.bytes > MOST_BYTES:
            self._backlog.moved.clear()
            try:
                async with asyncio.timeout(CHECK_S):
                    await self._backlog.moved.wait()
            except TimeoutError:
                if not await is_alive():
                    raise ConnectionResetError("the client is gone") from None
