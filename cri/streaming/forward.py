# SPDX-License-Identifier: Apache-2.0
"""PortForward's second half: pairs of SPDY streams, each joined to a port of the pod.

Called by `connection`. Any text on an error stream ends the client's whole session, so only a failed connection writes
to it.
"""

import asyncio
from collections.abc import Coroutine
from typing import Any

from cri.node import Node
from cri.pb import runtime_pb2 as pb
from cri.pods import forward
from cri.pods.forward import AnyConnection
from cri.streaming import session, spdy
from cri.streaming.session import SETUP_S
from cri.streaming.spdy_session import MOST_STREAMS, SpdyConnection, SpdyStream
from cri.streaming.wire import Wire
from cri.threads import is_set_within
from stage1.errors import BadRequest, PodError

LINGER_S = 1.0
"""How long the client may send nothing after the server has ended, before the connection is closed."""
KINDS = {"error", "data"}


class Forwarder:
    """All connections of one client."""

    def __init__(self, node: Node, request: pb.PortForwardRequest, wire: Wire) -> None:
        self._node, self._request = node, request
        self._connection = SpdyConnection(wire, self._opened, node.pods.loop_budget)
        self._halves: dict[str, tuple[SpdyStream, asyncio.Task[None]]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Serve connections until the client is gone."""
        try:
            await self._connection.run()
        finally:
            for task in self._tasks:
                task.cancel()
            if self._tasks:
                await asyncio.wait(self._tasks)

    async def _opened(self, stream: SpdyStream) -> None:
        kind, name = _kind(stream), _pair_of(stream)
        other = self._halves.get(name)
        if kind not in KINDS or (other and _kind(other[0]) == kind):
            return await stream.reset(spdy.PROTOCOL_ERROR)
        if len(self._tasks) >= MOST_STREAMS:  # streams that the client has reset may still be finishing
            return await stream.reset(spdy.REFUSED_STREAM)
        if kind == "error":
            stream.input.close()  # it sends nothing there
        if other is None:
            self._halves[name] = stream, self._start(self._expire(name, stream))
            return None
        del self._halves[name]
        other[1].cancel()
        error, data = (stream, other[0]) if kind == "error" else (other[0], stream)
        self._start(self._forward(error, data))
        return None

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _expire(self, name: str, stream: SpdyStream) -> None:
        """Drop half a pair after a time, or when the client resets it."""
        await is_set_within(SETUP_S, stream.gone)
        del self._halves[name]
        await stream.reset(spdy.CANCEL)

    async def _forward(self, error: SpdyStream, data: SpdyStream) -> None:
        try:
            pod = self._node.pods.get(self._request.pod_sandbox_id)
            async with forward.connect(pod, _port(data)) as made:
                await _join(data, made)
        except PodError as fault:
            await error.write(f"error forwarding to the pod: {fault}".encode())
        except ConnectionError:
            return  # the client is gone
        for stream in (data, error):
            await stream.close()
            self._connection.forget(stream.number)


def _kind(stream: SpdyStream) -> str:
    return stream.headers.get("streamtype", "")


def _pair_of(stream: SpdyStream) -> str:
    """Old clients open the error stream and then, as the next, its data stream, and name neither."""
    name = stream.headers.get("requestid", "")
    return name or f"stream {stream.number - 2 if _kind(stream) == 'data' else stream.number}"


def _port(stream: SpdyStream) -> int:
    text = stream.headers.get("port", "")
    if not (text.isascii() and text.isdecimal() and len(text) <= 5 and 0 < int(text) < 65536):
        raise BadRequest(f"{text[:20]!r} is not a port")
    return int(text)


async def _join(stream: SpdyStream, made: AnyConnection) -> None:
    """Copy both ways. Either side may end its direction first; a client that resets the stream ends both."""
    up, down = _up(stream, made), _down(stream, made)
    async with session.run_concurrently(up, down, _gone(stream)) as (sending, receiving, gone):
        await asyncio.wait({receiving, gone}, return_when=asyncio.FIRST_COMPLETED)
        if receiving.done() and not gone.done():
            receiving.result()
            await stream.close()
            await _linger(stream, sending)


async def _linger(stream: SpdyStream, sending: "asyncio.Task[None]") -> None:
    """The server has ended; take what the client still sends, as long as something moves."""
    seen = -1
    while not sending.done() and not stream.gone.is_set() and seen != stream.input.total:
        seen = stream.input.total
        await asyncio.wait({sending}, timeout=LINGER_S)


async def _gone(stream: SpdyStream) -> None:
    await stream.gone.wait()


async def _up(stream: SpdyStream, made: AnyConnection) -> None:
    while data := await stream.input.read():
        await made.send(data)
    if not stream.gone.is_set():
        await made.send(b"", end=True)


async def _down(stream: SpdyStream, made: AnyConnection) -> None:
    while data := await made.read():
        await stream.write(data)
