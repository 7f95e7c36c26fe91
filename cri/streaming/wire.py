# SPDX-License-Identifier: Apache-2.0
"""Bytes to and from one client: a Wire, which is plain TCP here, or carried in the messages of a WebSocket. The content
is not known here.

A client that reads slowly makes `write` wait; one that is not read from is held back by TCP. A client that closes
either direction counts as gone: none of the protocols uses half a connection.
"""

import asyncio
import select
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Protocol, TypeVar

from cri.loop_budget import SLICE_S, LoopBudget

READ_BYTES = 65536


class Wire(Protocol):
    """A stream of bytes in each direction."""

    @property
    def last_s(self) -> float:
        """The time of the last traffic, of time.monotonic()."""

    async def read(self) -> bytes:
        """Read data; b"" when the client has disconnected."""

    async def write(self, data: bytes) -> None:
        """Send, and wait while too much waits to be sent. Raises ConnectionError."""

    async def is_alive(self) -> bool:
        """Return whether the client has closed nothing, which asyncio does not check while there is no reader. Over a
        WebSocket a pong is sent too, so that the client does not time out.
        """

    async def flush(self) -> None:
        """Wait until everything is on its way. Raises ConnectionError."""

    def abort(self) -> None:
        """End at once."""


class Tcp:
    """A Wire on the socket; `first` was read already."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, first: bytes) -> None:
        self._reader, self._writer, self._first = reader, writer, first
        self._lock = asyncio.Lock()
        self._last_s = time.monotonic()

    @property
    def last_s(self) -> float:
        """The time of the last traffic."""
        return self._last_s

    async def read(self) -> bytes:
        """Read data; b"" when the client has disconnected."""
        data, self._first = self._first, b""
        try:
            data = data or await self._reader.read(READ_BYTES)
        except ConnectionError:
            return b""
        self._last_s = time.monotonic()
        return data

    async def write(self, data: bytes) -> None:
        """Send in the order of the calls, one at a time: a client that does not read has one of them in the socket's
        buffer, however many streams it has. Raises ConnectionError.
        """
        async with self._lock:
            self._writer.write(data)
            await self._writer.drain()
        self._last_s = time.monotonic()

    async def is_alive(self) -> bool:
        """Whether the client has closed nothing. asyncio does not check while there is no reader."""
        sock = self._writer.get_extra_info("socket")
        if self._writer.is_closing() or sock is None or sock.fileno() < 0:
            return False
        poll = select.poll()
        poll.register(sock.fileno(), select.POLLRDHUP)
        return not poll.poll(0)

    async def flush(self) -> None:
        """Wait until the kernel has everything. Raises ConnectionError."""
        self._writer.transport.set_write_buffer_limits(0)
        await self.write(b"")

    def abort(self) -> None:
        """End at once."""
        self._writer.transport.abort()


# -- Input -------------------------------------------------------------------------------------------------------------
# Data of a client's streams that was received and not read yet. Bounded: reading from the client pauses until there
# is space.


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


# -- Turns -------------------------------------------------------------------------------------------------------------
# What a client sent is parsed in short slices, in turn with the links of guests (`cri.loop_budget`): thousands of
# frames fit into one read, and all else in the daemon waits while they are looked at.


T = TypeVar("T")


async def next_slice(events: Iterator[T], budget: LoopBudget) -> list[T]:
    """Return the next events, as many as are made within a slice, and one at least; empty at the end. Raises what
    making them does.
    """
    await budget.begin()
    begun_s, made = time.monotonic(), list[T]()
    try:
        for event in events:
            made.append(event)
            if time.monotonic() - begun_s >= SLICE_S:
                break
    finally:
        budget.spend(time.monotonic() - begun_s)
    return made
