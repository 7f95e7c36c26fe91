# SPDX-License-Identifier: Apache-2.0
"""A client with a token that sends as much as it can of what costs most: it waits, and no other does."""

import asyncio
import socket
import struct
from collections.abc import Coroutine, Iterable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from cri.loop_budget import LoopBudget
from cri.pb import runtime_pb2 as pb
from cri.streaming import spdy
from cri.streaming.forward import Forwarder
from cri.streaming.spdy_session import LONGEST_VALUE, MOST_STREAMS, SpdyConnection, SpdySession, SpdyStream
from cri.streaming.websocket import Tunnel, WebSocket
from cri.streaming.wire import MOST_BYTES, READ_BYTES, InputQueue, Tcp
from tests.fakes.patience import PATIENCE

from .test_spdy import Client, frame

EMPTY = struct.pack(">II", 1, 0)
PING = frame(6, struct.pack(">I", 1))
WEBSOCKET_EMPTY, WEBSOCKET_PING = b"\x82\x80\0\0\0\0", b"\x89\x80\0\0\0\0"
READS = 4
LEAST_TURNS = 8
"""Four reads of such frames take ten times as many slices on any processor that we know."""


class Flood:
    """A Wire from which each piece comes at once, and which takes everything; it is silent in the end."""

    last_s = 0.0

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces: Iterator[bytes] = iter(pieces)
        self.reads, self.drained = 0, asyncio.Event()

    async def read(self) -> bytes:
        self.reads += 1
        for piece in self._pieces:
            return piece
        self.drained.set()
        await asyncio.Event().wait()
        return b""

    async def write(self, data: bytes) -> None:
        """Dropped."""

    async def is_alive(self) -> bool:
        return True

    async def flush(self) -> None:
        """Nothing waits."""

    def abort(self) -> None:
        """Nothing is open."""


async def turns_while(work: Coroutine[Any, Any, Any], until: asyncio.Event) -> int:
    """How often something else had its turn before `until` was set."""
    task, turns = asyncio.ensure_future(work), 0
    async with asyncio.timeout(60 * PATIENCE):
        while not until.is_set():
            await asyncio.sleep(0)
            turns += 1
    task.cancel()
    await asyncio.wait({task})
    return turns


def whole(unit: bytes) -> bytes:
    return unit * (READ_BYTES // len(unit))


@pytest.mark.parametrize("unit", [EMPTY, PING], ids=["data without a byte", "pings"])
async def test_others_are_served_between_the_frames_of_one_read(unit: bytes) -> None:
    wire = Flood([whole(unit)] * READS)
    client = SpdySession(wire, 4, expected={"stdin"}, budget=LoopBudget())
    assert await turns_while(client.run(), wire.drained) > LEAST_TURNS


@pytest.mark.parametrize("unit", [WEBSOCKET_EMPTY, WEBSOCKET_PING], ids=["messages without a byte", "pings"])
async def test_others_are_served_between_the_messages_of_one_read(unit: bytes) -> None:
    wire = Flood([whole(unit)] * READS)
    websocket = WebSocket(wire, LoopBudget())
    assert await turns_while(Tunnel(websocket).read(), wire.drained) > LEAST_TURNS


def test_thousands_of_names_in_one_block_are_a_fault() -> None:
    """Each frame of a hundred bytes had 8191 of them, 64 KiB of which took the daemon three seconds."""
    raw = struct.pack(">I", spdy.MOST_HEADERS + 1) + bytes(8 * (spdy.MOST_HEADERS + 1))
    with pytest.raises(spdy.SpdyFault, match="65 headers"):
        spdy.Codec().receive(frame(1, struct.pack(">IIBB", 1, 0, 0, 0) + Client().block(raw)))


async def test_unread_data_of_many_streams_is_bounded_together() -> None:
    client, opened = Client(), list[SpdyStream]()
    numbers = range(1, 201, 2)
    heads = b"".join(client.open(number, {"streamtype": "data"}) for number in numbers)
    pieces = [spdy.data(number, bytes(READ_BYTES - 8)) for _ in range(4) for number in numbers]
    wire = Flood([heads, *pieces])

    async def keep(stream: SpdyStream) -> None:
        opened.append(stream)

    connection = SpdyConnection(wire, keep, LoopBudget())
    task = asyncio.ensure_future(connection.run())
    async with asyncio.timeout(60 * PATIENCE):
        before = -1
        while before != wire.reads:
            before = wire.reads
            await asyncio.sleep(0.05)
        held = sum(stream.input.total for stream in opened)
        assert MOST_BYTES < held <= MOST_BYTES + READ_BYTES
        for stream in opened:  # whoever is read from, or forgotten, makes room
            connection.forget(stream.number) if stream.number % 3 else await stream.input.read()
        while sum(stream.input.total for stream in opened) == held:
            await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.wait({task})


async def test_headers_that_mean_nothing_are_not_kept_with_their_stream() -> None:
    """A thousand streams may have 8 KiB each, of a few bytes on the wire."""
    client, opened = Client(), list[SpdyStream]()
    numbers = range(1, 201, 2)
    more = {f"x-{number}": "x" * 400 for number in range(16)}
    wire = Flood([client.open(number, {"streamtype": "data", "port": "80", **more}) for number in numbers])

    async def keep(stream: SpdyStream) -> None:
        opened.append(stream)

    task = asyncio.ensure_future(SpdyConnection(wire, keep, LoopBudget()).run())
    async with asyncio.timeout(60 * PATIENCE):
        await wire.drained.wait()
    task.cancel()
    await asyncio.wait({task})
    assert len(opened) == len(numbers)
    assert {tuple(stream.headers.items()) for stream in opened} == {(("streamtype", "data"), ("port", "80"))}


async def test_a_long_name_of_a_connection_ends_the_client() -> None:
    client = Client()
    wire = Flood([client.open(1, {"streamtype": "data", "requestid": "7" * (LONGEST_VALUE + 1)})])
    async with asyncio.timeout(60 * PATIENCE):
        await SpdyConnection(wire, keep_nothing, LoopBudget()).run()


async def keep_nothing(stream: SpdyStream) -> None:
    raise AssertionError(stream.headers)


async def test_a_client_that_does_not_read_has_little_of_all_its_streams_waiting() -> None:
    """Each stream has a piece that waits for the others', and no copy of it in the socket's buffer."""
    there, here = socket.socketpair()
    reader, writer = await asyncio.open_connection(sock=here)
    wire = Tcp(reader, writer, b"")
    piece = bytes(spdy.CHUNK)
    tasks = [asyncio.ensure_future(wire.write(bytes([number]) + piece)) for number in range(100)]
    await asyncio.sleep(0.1)
    assert writer.transport.get_write_buffer_size() < 8 * spdy.CHUNK
    there.setblocking(False)
    loop, seen, data = asyncio.get_running_loop(), [], b""
    async with asyncio.timeout(60 * PATIENCE):
        while len(seen) < len(tasks):
            data += await loop.sock_recv(there, 1 << 20)
            while len(data) > len(piece):
                seen.append(data[0])
                data = data[len(piece) + 1 :]
        await asyncio.gather(*tasks)
    assert seen == list(range(100)), "in the order of the calls"
    writer.transport.abort()
    there.close()


async def test_what_comes_in_crumbs_takes_no_more_than_its_bytes() -> None:
    queue = InputQueue()
    for _ in range(1000):
        queue.put(b"x")
    assert len(queue._data) == 1000 and await queue.read() == b"x" * 1000


def forwarder(wire: Flood) -> Forwarder:
    node: Any = SimpleNamespace(pods=SimpleNamespace(loop_budget=LoopBudget(), get=lambda _: None))
    return Forwarder(node, pb.PortForwardRequest(pod_sandbox_id="pod"), wire)


async def state_after(pieces: list[bytes]) -> tuple[int, int]:
    """Of half connections, and of tasks, once all was read."""
    wire = Flood(pieces)
    one = forwarder(wire)
    task = asyncio.ensure_future(one.run())
    async with asyncio.timeout(60 * PATIENCE):
        await wire.drained.wait()
        await asyncio.sleep(0.05)
    state = len(one._halves), len(one._tasks)
    task.cancel()
    await asyncio.wait({task})
    return state


async def test_streams_that_a_client_resets_leave_nothing() -> None:
    client = Client()
    pieces = [
        client.open(number, {"streamtype": "data", "requestid": f"{number}"}) + spdy.reset(number, spdy.CANCEL)
        for number in range(1, 4001, 2)
    ]
    assert await state_after(pieces) == (0, 0)


async def test_streams_of_kinds_that_there_are_not_leave_nothing() -> None:
    client = Client()
    pieces = [client.open(number, {"streamtype": "x", "requestid": f"{number}"}) for number in range(1, 4001, 2)]
    assert await state_after(pieces) == (0, 0)


async def test_connections_that_are_being_made_are_limited_also_when_their_streams_are_reset(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def never(*_: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(Forwarder, "_forward", never)
    client, pieces = Client(), []
    for number in range(1, 8 * MOST_STREAMS, 4):
        for at, kind in ((number, "error"), (number + 2, "data")):
            pieces.append(client.open(at, {"streamtype": kind, "requestid": f"{number}"}))
        pieces.append(spdy.reset(number, spdy.CANCEL) + spdy.reset(number + 2, spdy.CANCEL))
    halves, tasks = await state_after(pieces)
    assert (halves, tasks <= MOST_STREAMS) == (0, True) and tasks > MOST_STREAMS / 2
