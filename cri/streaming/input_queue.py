# SPDX-License-Identifier: Apache-2.0
"""What a client sent on one stream and is not read yet. Bounded: who reads from the client waits for space."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable

HIGH_BYTES = 256 * 1024
"""So much may wait; one read of the socket may come on top."""
CHECK_S = 1.0
"""How often it is checked whether a client that is kept waiting is still connected."""


class InputQueue:
    """One direction of a stream; `total` counts the bytes that came. `finish` and `close` are idempotent."""

    def __init__(self) -> None:
        self._pieces: deque[bytes] = deque()
        self._bytes = self.total = 0
        self._ended = self._closed = False
        self._moved = asyncio.Event()

    def put(self, data: bytes) -> None:
        """Append data of the client; it is dropped after `close`."""
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
        """The reader has gone: what is queued and what follows is dropped."""
        self._closed = self._ended = True
        self._pieces.clear()
        self._bytes = 0
        self._moved.set()

    async def read(self) -> bytes:
        """All that is queued, in order, waiting for the first byte; b"" at the end."""
        while not self._pieces and not self._ended:
            await self._wait()
        data = b"".join(self._pieces)
        self._pieces.clear()
        self._bytes = 0
        self._moved.set()
        return data

    async def wait_for_space(self, is_alive: Callable[[], Awaitable[bool]]) -> None:
        """Wait until more may be queued. Raises ConnectionResetError when the client has gone meanwhile."""
        while self._bytes > HIGH_BYTES:
            try:
                async with asyncio.timeout(CHECK_S):
                    await self._wait()
            except TimeoutError:
                if not await is_alive():
                    raise ConnectionResetError("the client is gone") from None

    async def _wait(self) -> None:
        self._moved.clear()
        await self._moved.wait()
