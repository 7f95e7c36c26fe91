# SPDX-License-Identifier: Apache-2.0
"""SPDY with its streams on a Wire, and the Session of exec and attach made of it.

`SpdyConnection` is used by port-forward too. Streams are only opened by the client.
"""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from cri.loop_budget import LoopBudget
from cri.streaming import spdy
from cri.streaming.session import SETUP_S
from cri.streaming.wire import Backlog, InputQueue, Wire, next_slice
from stage1.errors import TimedOut

MOST_STREAMS = 1024
"""Open at a time on one connection; more are refused."""
KEPT, LONGEST_VALUE = ("streamtype", "port", "requestid"), 256
"""The headers that mean something, which alone are kept as long as their stream, and the longest value of one."""


class SpdyStream:
    """One stream: `input` has what the client sent. Once the client has reset it, `gone` is set, and nothing more is
    sent.
    """

    def __init__(self, connection: "SpdyConnection", number: int, *, headers: dict[str, str]) -> None:
        self.number, self.headers = number, headers
        self.input = InputQueue(connection.backlog)
        self.gone = asyncio.Event()
        self._connection = connection
        self._is_over = False

    async def write(self, data: bytes) -> None:
        """Send data. Raises ConnectionError."""
        for at in range(0, len(data), spdy.CHUNK):
            if self._is_over:
                return
            await self._connection.send(spdy.data(self.number, data[at : at + spdy.CHUNK]))

    async def touch(self) -> None:
        """Send an empty data frame, to see whether the client is there. Raises ConnectionError."""
        if not self._is_over:
            await self._connection.send(spdy.data(self.number, b""))

    async def close(self) -> None:
        """Send the end of the stream. Raises ConnectionError."""
        if not self._is_over:
            self._is_over = True
            await self._connection.send(spdy.data(self.number, b"", fin=True))

    async def reset(self, status: int) -> None:
        """End both directions. Raises ConnectionError."""
        self.input.close()
        self._connection.forget(self.number)
        if not self._is_over:
            self._is_over = True
            await self._connection.send(spdy.reset(self.number, status))

    def was_reset(self) -> None:
        """The client wants nothing more of it, or is gone itself."""
        self._is_over = True
        self.input.finish()
        self.gone.set()


Opened = Callable[[SpdyStream], Coroutine[Any, Any, None]]


class SpdyConnection:
    """One client, whose bytes are parsed within `budget`. `opened` is called for each stream, once the reply to it has
    been queued.
    """

    def __init__(self, wire: Wire, opened: Opened, budget: LoopBudget) -> None:
        self._wire, self._opened, self._budget = wire, opened, budget
        self._codec, self.backlog = spdy.Codec(), Backlog()
        self._streams: dict[int, SpdyStream] = {}
        self._last = 0

    async def run(self) -> None:
        """Take what the client sends until it is gone or breaks the rules."""
        try:
            while data := await self._wire.read():
                events = self._codec.events(data)
                while some := await next_slice(events, self._budget):
                    for event in some:
                        if event is not None:
                            await self._take(event)
        except (spdy.SpdyFault, ConnectionError):
            pass
        finally:
            for stream in self._streams.values():
                stream.was_reset()

    async def send(self, frames: bytes) -> None:
        """Raises ConnectionError."""
        await self._wire.write(frames)

    def forget(self, number: int) -> None:
        """Discard what has been and will be received on this stream."""
        if stream := self._streams.pop(number, None):
            stream.input.close()

    async def finish(self) -> None:
        """Say that no more streams are taken. Raises ConnectionError."""
        await self.send(spdy.goaway(self._last))
        await self._wire.flush()

    def abort(self) -> None:
        """End at once."""
        self._wire.abort()

    async def _take(self, event: spdy.Event) -> None:
        if isinstance(event, spdy.Data):
            await self._take_data(event)
        elif isinstance(event, spdy.Opened):
            await self._open(event)
        elif isinstance(event, spdy.Reset):
            if stream := self._streams.pop(event.stream, None):
                stream.was_reset()
        elif isinstance(event, spdy.Ping):
            await self.send(spdy.pong(event))

    async def _take_data(self, event: spdy.Data) -> None:
        stream = self._streams.get(event.stream)
        if stream is None:
            return  # it is over on our side already
        stream.input.put(event.data)
        if event.fin:
            stream.input.finish()
        await stream.input.wait_for_space(lambda: self._is_alive(stream))

    async def _is_alive(self, stream: SpdyStream) -> bool:
        """A client that is held back may have gone behind what it could not send: only an answer to data shows that.
        A PING is none, since the client might have to wait for us before it could answer.
        """
        if not await self._wire.is_alive():
            return False
        await stream.touch()
        return True

    async def _open(self, event: spdy.Opened) -> None:
        if event.stream <= self._last:
            raise spdy.SpdyFault(f"stream {event.stream} after stream {self._last}")
        self._last = event.stream
        if len(self._streams) >= MOST_STREAMS:
            return await self.send(spdy.reset(event.stream, spdy.REFUSED_STREAM))
        stream = self._streams[event.stream] = SpdyStream(self, event.stream, headers=_kept(event.headers))
        await self.send(self._codec.reply(event.stream))
        if event.fin:
            stream.input.finish()
        return await self._opened(stream)


def _kept(headers: dict[str, str]) -> dict[str, str]:
    """Raises SpdyFault for a value that no client of Kubernetes sends."""
    kept = {name: headers[name] for name in KEPT if name in headers}
    if name := next((name for name, value in kept.items() if len(value) > LONGEST_VALUE), ""):
        raise spdy.SpdyFault(f"a header {name} of {len(kept[name])} bytes, more than {LONGEST_VALUE}")
    return kept


class SpdySession:
    """See `session.Session`. `expected` are the streams that the client must open, by their `streamtype`."""

    def __init__(self, wire: Wire, version: int, *, expected: set[str], budget: LoopBudget) -> None:
        self.version = version
        self.stdin, self.resize = InputQueue(), InputQueue()
        self._expected = expected
        self._streams: dict[str, SpdyStream] = {}
        self._complete = asyncio.Event()
        self._connection = SpdyConnection(wire, self._opened, budget)

    async def run(self) -> None:
        """Take what the client sends until it is gone."""
        await self._connection.run()
        self.stdin.finish()
        self.resize.finish()

    async def _opened(self, stream: SpdyStream) -> None:
        name = stream.headers.get("streamtype", "")
        if name not in self._expected or name in self._streams:
            return await stream.reset(spdy.REFUSED_STREAM)
        self._streams[name] = stream
        if name == "stdin":
            self.stdin = stream.input
        elif name == "resize":
            self.resize = stream.input
        else:
            stream.input.close()
        if self._expected == self._streams.keys():
            self._complete.set()
        return None

    async def ready(self) -> None:
        """Wait for the last of the streams. Raises TimedOut."""
        try:
            async with asyncio.timeout(SETUP_S):
                await self._complete.wait()
        except TimeoutError:
            missing = ", ".join(sorted(self._expected - self._streams.keys()))
            raise TimedOut(f"the client did not open these streams within {SETUP_S:g} s: {missing}") from None

    async def write(self, name: str, data: bytes) -> None:
        """Send output. Raises ConnectionError."""
        await self._streams[name].write(data)

    async def finish(self, status: bytes) -> None:
        """The status, then the end of every stream and of the connection. Raises ConnectionError."""
        if error := self._streams.get("error"):
            await error.write(status)
        for stream in self._streams.values():
            await stream.close()
        await self._connection.finish()

    def abort(self) -> None:
        """End at once."""
        self._connection.abort()
