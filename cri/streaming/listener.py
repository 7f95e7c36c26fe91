# SPDX-License-Identifier: Apache-2.0
"""A TCP port that any client may connect to: what the streaming server and the one for metrics have in common.

A connection is an `UnadmittedConnection` until the head of its request is there; from then on it has a task of its own.
What is spoken on it is not known here; `connection` checks the token. Any local user can connect, so a connection that
has shown no valid token costs next to nothing (no task, no parser). There are few of them, for a short time, and the
oldest goes first.
"""

import asyncio
import ipaddress
import logging
import re
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from cri import owner

HEAD_S = 5.0
"""How long a client may take from connecting until its token is known to be valid."""
HEAD_BYTES = 16 << 10
"""Of the request line and all headers."""
DROPPED_BYTES = 1 << 20
"""Of a refused request, what is read and thrown away before the connection is cut."""
TOO_LONG = b"HTTP/1.1 431 Request Header Fields Too Large\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
_END = re.compile(rb"\n\r?\n")

Received = Callable[["UnadmittedConnection", bytes], None]


class Waiting:
    """The budget of all gates: `most` together, `most_each` for each source that is not this host.

    There is always room for one more: when the budget is used up, the oldest connection of the source that has the
    most is cut. So a flood from one source cuts itself, and who sends a head at once is done before it is the oldest.
    """

    def __init__(self, most: int, most_each: int) -> None:
        self._most, self._most_each = most, most_each
        self._since_s: dict[UnadmittedConnection, float] = {}  # oldest first
        self._of_source: dict[str, dict[UnadmittedConnection, None]] = {}
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._since_s)

    def enter(self, gate: "UnadmittedConnection", now_s: float) -> None:
        """Count the gate, and cut another one if there are too many."""
        peers = self._of_source.get(gate.source, {})
        if len(peers) >= self._most_each and not gate.is_local:
            self._cut(next(iter(peers)))
        elif len(self._since_s) >= self._most:
            busiest: dict[UnadmittedConnection, None] = max(self._of_source.values(), key=len)
            self._cut(next(iter(busiest)))
        self._since_s[gate] = now_s
        self._of_source.setdefault(gate.source, {})[gate] = None
        self._arm()

    def leave(self, gate: "UnadmittedConnection") -> None:
        """The gate's client has shown a token, or is gone. Idempotent."""
        if self._since_s.pop(gate, None) is not None:
            peers = self._of_source[gate.source]
            del peers[gate]
            if not peers:
                del self._of_source[gate.source]

    def close(self) -> None:
        """Close all connections."""
        for gate in list(self._since_s):
            self._cut(gate)
        if self._timer is not None:
            self._timer.cancel()

    def _cut(self, gate: "UnadmittedConnection") -> None:
        self.leave(gate)
        gate.abort()

    def _arm(self) -> None:
        if self._timer is None and self._since_s:
            oldest_s = next(iter(self._since_s.values()))
            self._timer = asyncio.get_running_loop().call_at(oldest_s + HEAD_S, self._expire)

    def _expire(self) -> None:
        self._timer = None
        now_s = asyncio.get_running_loop().time()
        while self._since_s:
            gate, since_s = next(iter(self._since_s.items()))
            if since_s + HEAD_S > now_s:
                break
            self._cut(gate)
        self._arm()


class UnadmittedConnection(asyncio.Protocol):
    """One connection. `received` gets the bytes that came once they contain a whole head, and takes over from there."""

    def __init__(self, waiting: Waiting, received: Received) -> None:
        self._waiting, self._received = waiting, received
        self._data, self._refused_bytes = bytearray(), 0
        self._transport: asyncio.Transport | None = None
        self.source, self.is_local = "", False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Count it."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self.source, self.is_local = source_of(transport.get_extra_info("peername"))
        self._waiting.enter(self, asyncio.get_running_loop().time())

    def data_received(self, data: bytes) -> None:
        """Collect until the head is complete."""
        if self._refused_bytes:
            self._drop(data)
            return
        before = len(self._data)
        self._data += data
        end = _END.search(self._data, max(before - 2, 0))
        if end is not None and end.end() <= HEAD_BYTES:
            data, self._data = bytes(self._data), bytearray()
            self._received(self, data)
        elif len(self._data) > HEAD_BYTES:
            self._refuse()

    def _refuse(self) -> None:
        """The client may still be sending, and closing now would reset the connection before it reads the answer."""
        assert self._transport is not None
        self._refused_bytes, self._data = len(self._data), bytearray()
        self._transport.write(TOO_LONG)
        self._transport.write_eof()

    def _drop(self, data: bytes) -> None:
        self._refused_bytes += len(data)
        if self._refused_bytes > DROPPED_BYTES:
            self.abort()

    def connection_lost(self, error: Exception | None) -> None:
        """The client is gone, or was cut."""
        self._waiting.leave(self)

    def admit(self) -> None:
        """The token is valid: this connection is not of those any more that wait."""
        self._waiting.leave(self)

    def abort(self) -> None:
        """End the connection at once."""
        if self._transport is not None:
            self._transport.abort()

    def streams(self, data: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Reader and writer for the rest of the connection, where `data` is what was read already."""
        loop, transport = asyncio.get_running_loop(), self._transport
        assert transport is not None
        reader = asyncio.StreamReader(limit=1 << 16, loop=loop)
        protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
        reader.feed_data(data)
        return reader, asyncio.StreamWriter(transport, protocol, reader, loop)


def source_of(peer: object) -> tuple[str, bool]:
    """The key by which connections of a peer are counted (an address, for IPv6 a /64), and whether it is this host."""
    if not isinstance(peer, tuple):
        return "", True  # it is gone already
    address = ipaddress.ip_address(str(peer[0]).partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped
    if isinstance(address, ipaddress.IPv6Address) and not address.is_loopback:
        return str(ipaddress.ip_network((address, 64), strict=False)), False
    return str(address), address.is_loopback


ACCEPTED_AT_ONCE = 8
"""How many connections are accepted before the event loop does other work."""
QUEUE = 4096
"""Connections that the kernel keeps for us meanwhile; it takes at most net.core.somaxconn."""
STOP_S = 5.0

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Service(NamedTuple):
    """The purpose of a port: `table` of the configuration has its address, `serve` handles one client, and closes
    nothing. An internal error is logged as the event `fault`.
    """

    table: str
    serve: Callable[[UnadmittedConnection, Streams], Awaitable[None]]
    log: logging.Logger
    fault: str


class Listener:
    """One port. `start` binds, `stop` ends all connections."""

    def __init__(self, service: Service, waiting: Waiting) -> None:
        self._service, self._waiting = service, waiting
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def start(self, address: str, port: int) -> int:
        """Listen. The port, of which 0 means any that is free. Raises AlreadyExists for one that is taken, BadRequest
        for an address that is not this host's.
        """
        listener = owner.listener(address, port, table=self._service.table)
        try:
            self._server = await asyncio.get_running_loop().create_server(
                lambda: UnadmittedConnection(self._waiting, self._received), sock=listener, backlog=ACCEPTED_AT_ONCE
            )
        except BaseException:
            listener.close()
            raise
        listener.listen(QUEUE)  # asyncio accepts as many at once as it lets the kernel keep
        return int(listener.getsockname()[1])

    async def stop(self) -> None:
        """Accept no more connections, and end those that there are. Idempotent."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=STOP_S)
        self._waiting.close()

    def _received(self, client: UnadmittedConnection, data: bytes) -> None:
        """The head of a request is complete."""
        task = asyncio.get_running_loop().create_task(self._serve(client, data))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, client: UnadmittedConnection, data: bytes) -> None:
        reader, writer = client.streams(data)
        try:
            await self._service.serve(client, (reader, writer))
            writer.close()
            # A client that is refused and does not read the answer is cut off after its time limit.
            await writer.wait_closed()
        except (asyncio.CancelledError, ConnectionError):
            pass  # we end, or the client does
        except Exception as error:
            self._service.log.error(self._service.fault, exc_info=error)
        finally:
            client.admit()
            writer.transport.abort()


def host_port(host: str, port: int) -> str:
    """Host and port as they stand in a URL."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
