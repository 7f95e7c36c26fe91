# SPDX-License-Identifier: Apache-2.0
"""Bytes to and from one client: plain TCP, or carried in the messages of a WebSocket. The content is not known here.

A client that reads slowly makes `write` wait; one that is not read from is held back by TCP. A client that closes
either direction counts as gone: none of the protocols uses half a connection.
"""

import asyncio
import select
import time
from collections import deque
from collections.abc import Iterator
from typing import Protocol

from wsproto.connection import Connection, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Event, Message, Ping, Pong, TextMessage
from wsproto.utilities import LocalProtocolError, RemoteProtocolError

from cri.loop_budget import LoopBudget
from cri.streaming.slices import next_slice

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


class WebSocket:
    """Messages on a Wire, after the handshake; they are parsed within `budget`."""

    def __init__(self, wire: Wire, budget: LoopBudget) -> None:
        self._wire, self._budget = wire, budget
        self._codec = Connection(ConnectionType.SERVER)
        self._coming: Iterator[Event] = iter(())
        self._events: deque[Event] = deque()

    @property
    def last_s(self) -> float:
        """The time of the last traffic."""
        return self._wire.last_s

    async def receive(self) -> tuple[bytes, bool] | None:
        """A part of a message and whether the message ends there; None when the client is gone."""
        while True:
            while self._events:
                part = await self._take(self._events.popleft())
                if part or part is None:
                    return part
            try:
                if some := await next_slice(self._coming, self._budget):
                    self._events.extend(some)
                    continue
                data = await self._wire.read()
                if not data:
                    return None
                self._codec.receive_data(data)
                self._coming = self._codec.events()
            except RemoteProtocolError:
                return None

    async def _take(self, event: Event) -> tuple[bytes, bool] | tuple[()] | None:
        if isinstance(event, BytesMessage):
            return bytes(event.data), event.message_finished
        if isinstance(event, TextMessage):
            return event.data.encode(), event.message_finished
        if isinstance(event, Ping):
            await self._send(event.response())
        elif isinstance(event, CloseConnection):
            await self.close()
            return None
        return ()

    async def send(self, data: bytes) -> None:
        """One binary message. Raises ConnectionError."""
        await self._send(Message(data=data))

    async def is_alive(self) -> bool:
        """Like that of a Wire: an unsolicited pong is allowed, and shows the client that we are alive."""
        if not await self._wire.is_alive():
            return False
        await self._send(Pong())
        return True

    async def close(self) -> None:
        """Send the close frame, once."""
        try:
            await self._send(CloseConnection(code=1000))
        except ConnectionError:
            pass  # it was sent already, or the client is gone

    async def flush(self) -> None:
        """Wait until everything is on its way. Raises ConnectionError."""
        await self._wire.flush()

    def abort(self) -> None:
        """End at once."""
        self._wire.abort()

    async def _send(self, event: Event) -> None:
        try:
            data = self._codec.send(event)
        except LocalProtocolError as error:
            raise ConnectionResetError(f"the WebSocket is closed: {error}") from None
        await self._wire.write(data)


class Tunnel:
    """A Wire in the messages of a WebSocket, whose borders mean nothing."""

    def __init__(self, websocket: WebSocket) -> None:
        self._websocket = websocket

    @property
    def last_s(self) -> float:
        """The time of the last traffic."""
        return self._websocket.last_s

    async def read(self) -> bytes:
        """Read data; b"" when the client has disconnected."""
        while (part := await self._websocket.receive()) is not None:
            if part[0]:
                return part[0]
        return b""

    async def write(self, data: bytes) -> None:
        """One message. Raises ConnectionError."""
        await self._websocket.send(data)

    async def is_alive(self) -> bool:
        """Like the WebSocket's."""
        return await self._websocket.is_alive()

    async def flush(self) -> None:
        """Wait until everything is on its way. Raises ConnectionError."""
        await self._websocket.flush()

    def abort(self) -> None:
        """End at once."""
        self._websocket.abort()
