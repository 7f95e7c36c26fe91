# SPDX-License-Identifier: Apache-2.0
"""What a client sent on one stream and nobody has taken yet. Bounded: whoever reads from the client waits in `room`."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable

HIGH_BYTES = 256 * 1024
"""So much may wait; one read of the socket may come on top."""
LOOK_S = 1.0
"""How often a client that is kept waiting is looked at."""


class Inlet:
    """One direction of a stream; `total` counts the bytes that came. `finish` may be called any time and again."""

    def __init__(self) -> None:
        self._pieces: deque[bytes] = deque()
        self._bytes = self.total = 0
        self._ended = self._closed = False
        self._moved = asyncio.Event()

    def put(self, data: bytes) -> None:
        """Data of the client; dropped when nobody wants it any more."""
        if data and not self._closed:
            self._pieces.append(data)
            self._bytes += len(data)
            self.total += len(data)
            self._moved.set()

    def finish(self) -> None:
        """The client sends nothing more."""
        self._ended = True
        self._moved.set()

    def close(self) -> None:
        """Nobody will read: what is there and what comes is dropped."""
        self._closed = self._ended = True
        self._pieces.clear()
        self._bytes = 0
        self._moved.set()

    async def read(self) -> bytes:
        """Everything that is there, in order; b"" when nothing will come any more."""
        while not self._pieces and not self._ended:
            await self._wait()
        data = b"".join(self._pieces)
        self._pieces.clear()
        self._bytes = 0
        self._moved.set()
        return data

    async def room(self, is_alive: Callable[[], Awaitable[bool]]) -> None:
        """Wait until more may be put. Raises ConnectionResetError when the client is gone meanwhile."""
        while self._bytes > HIGH_BYTES:
            try:
                async with asyncio.timeout(LOOK_S):
                    await self._wait()
            except TimeoutError:
                if not await is_alive():
                    raise ConnectionResetError("the client is gone") from None

    async def _wait(self) -> None:
        self._moved.clear()
        await self._moved.wait()
