# SPDX-License-Identifier: Apache-2.0
"""One client from its HTTP request to its end. Called by `server`, which loads this when the first client comes."""

import asyncio
import logging
import time
from collections.abc import Callable
from typing import NamedTuple

import h11

from cri.node import Node
from cri.streaming import formats, session, upgrade
from cri.streaming.forward import Forwarder
from cri.streaming.listener import HEAD_BYTES
from cri.streaming.process_streams import attach, execute
from cri.streaming.server import Offer
from cri.streaming.session import Session
from cri.streaming.spdy_session import SpdySession
from cri.streaming.websocket import ChannelSession, Tunnel, WebSocket
from cri.streaming.wire import Tcp, Wire
from stage1.errors import NoSpace, PodError

log = logging.getLogger("clearpod.streaming")

ANSWER_S = 5.0
"""How long a client may take to read the answer to its request."""
IDLE_S = 4 * 3600.0
"""A connection on which nothing moves for so long is ended."""
READ_BYTES = 1 << 20
"""The size of a read: at least what is sent together with the head."""
NOT_HTTP = b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
ENDING = "clearpod is ending; the command was killed"

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Asked(NamedTuple):
    """A request; `first` is what came behind it."""

    method: str
    path: str
    headers: dict[str, list[str]]
    first: bytes


async def serve(node: Node, streams: Streams, *, take: Callable[[str], Offer | None]) -> None:
    """Serve one connection, of whose request the whole head can be read at once. `take` turns a token into what it
    stands for, once, and raises NoSpace.
    """
    http = h11.Connection(h11.SERVER, max_incomplete_event_size=HEAD_BYTES)
    try:
        asked = _read(http, await streams[0].read(READ_BYTES))
        answer, offer = _decide(asked, take)
        async with asyncio.timeout(ANSWER_S):
            await _answer(http, streams[1], answer=answer)
    except (TimeoutError, ConnectionError):
        return
    except h11.RemoteProtocolError:
        streams[1].write(NOT_HTTP)
        return
    if isinstance(answer, upgrade.Upgrade) and offer is not None:
        fields = {"kind": offer.kind, "protocol": answer.protocol, "of": _subject(offer)}
        log.info("stream.begun", extra=fields)
        try:
            await _upgraded(node, Tcp(*streams, asked.first), chosen=answer, offer=offer)
        finally:
            log.info("stream.ended", extra=fields)


def _subject(offer: Offer) -> str:
    return str(offer.request.pod_sandbox_id if offer.kind == "portforward" else offer.request.container_id)


def _read(http: h11.Connection, data: bytes) -> Asked:
    """The request at the beginning of `data`. Raises h11.RemoteProtocolError, also for one with a body."""
    http.receive_data(data)
    request = http.next_event()
    if not isinstance(request, h11.Request) or not isinstance(http.next_event(), h11.EndOfMessage):
        raise h11.RemoteProtocolError("this is not the head of a request without a body")
    headers: dict[str, list[str]] = {}
    for name, value in request.headers:
        headers.setdefault(name.decode("latin-1").lower(), []).append(value.decode("latin-1"))
    path = request.target.decode("latin-1").partition("?")[0]
    return Asked(request.method.decode("latin-1"), path, headers, http.trailing_data[0])


def _decide(
    asked: Asked, take: Callable[[str], Offer | None]
) -> tuple[upgrade.Upgrade | upgrade.Refusal, Offer | None]:
    if asked.method not in ("GET", "POST"):
        return upgrade.Refusal(405, "only GET and POST are known here", (("Allow", "GET, POST"),)), None
    kind, _, token = asked.path.removeprefix("/").partition("/")
    try:
        offer = take(token)
    except NoSpace as error:
        return upgrade.Refusal(503, str(error)), None
    if offer is None or offer.kind != kind:
        return upgrade.Refusal(404, "this URL is not known, or was used, or is older than a minute"), None
    return upgrade.decide(kind, asked.headers), offer


async def _answer(
    http: h11.Connection, writer: asyncio.StreamWriter, *, answer: upgrade.Upgrade | upgrade.Refusal
) -> None:
    if isinstance(answer, upgrade.Upgrade):
        sent = http.send(h11.InformationalResponse(status_code=101, headers=list(answer.headers)))
    else:
        body = f"{answer.sentence}\n".encode()
        kind = (("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", str(len(body))))
        head = [*answer.headers, *kind, ("Connection", "close")]
        sent = http.send(h11.Response(status_code=answer.status, headers=head)) or b""
        sent += (http.send(h11.Data(data=body)) or b"") + (http.send(h11.EndOfMessage()) or b"")
    writer.write(sent or b"")
    await writer.drain()


async def _upgraded(node: Node, tcp: Tcp, *, chosen: upgrade.Upgrade, offer: Offer) -> None:
    idle = asyncio.ensure_future(_end_when_idle(tcp))
    try:
        budget = node.pods.loop_budget
        websocket = WebSocket(tcp, budget) if chosen.transport == upgrade.WEBSOCKET else None
        if offer.kind == "portforward":
            wire: Wire = Tunnel(websocket) if websocket else tcp
            await Forwarder(node, offer.request, wire).run()
        elif websocket:
            await _converse(node, offer, client=ChannelSession(websocket, chosen.version))
        else:
            spdy = SpdySession(tcp, chosen.version, expected=_expected_streams(offer), budget=budget)
            await _converse(node, offer, client=spdy)
    finally:
        idle.cancel()
        tcp.abort()


def _expected_streams(offer: Offer) -> set[str]:
    asked = offer.request
    given = {"stdin": asked.stdin, "stdout": asked.stdout, "stderr": asked.stderr, "resize": asked.tty, "error": True}
    return {name for name, is_asked in given.items() if is_asked}


async def _converse(node: Node, offer: Offer, *, client: Session) -> None:
    """Work for the client until the work is done, the client is gone, or we end."""
    reading = asyncio.ensure_future(client.run())
    working = asyncio.ensure_future(_work(node, offer, client=client))
    try:
        await asyncio.wait({reading, working}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            await session.end(client, reading, status=working.result())
    except asyncio.CancelledError:
        working.cancel()
        await asyncio.wait({working})
        await session.end(client, reading, status=formats.failure(client.version, ENDING))
        raise
    finally:
        client.abort()
        for task in (reading, working):
            task.cancel()
        await asyncio.wait({reading, working})
        if not reading.cancelled() and (error := reading.exception()):
            log.error("stream.fault", extra={"kind": offer.kind}, exc_info=error)


async def _work(node: Node, offer: Offer, *, client: Session) -> bytes:
    """Serve the request; return its final status."""
    work = execute if offer.kind == "exec" else attach
    try:
        return await work(node, offer.request, client=client)
    except PodError as error:
        return formats.failure(client.version, str(error), kind=type(error).__name__)
    except ConnectionError:
        return b""
    except Exception as error:
        log.error("stream.fault", extra={"kind": offer.kind}, exc_info=error)
        return formats.failure(
            client.version, f"the {offer.kind} failed by an internal error, a bug in clearpod; see its log"
        )


async def _end_when_idle(wire: Tcp) -> None:
    while (left_s := wire.last_s + IDLE_S - time.monotonic()) > 0:  # noqa: ASYNC110 - each byte would set an event
        await asyncio.sleep(left_s)
    wire.abort()
