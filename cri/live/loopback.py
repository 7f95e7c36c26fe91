# SPDX-License-Identifier: Apache-2.0
"""Host ports on ::1: the daemon listens there itself and passes on to the pod. Owned by a live pod.

The rules of the CNI plugins serve every other address of the host, but no rule can serve this one: what a pod answers
must come in by a device, and the kernel drops what comes in by a device for ::1 (docs/design/network.md). TCP and UDP
only. Nothing of it outlives the daemon: the next one listens again, and connections made before are cut.
"""

import asyncio
import contextlib
import errno
import logging
import socket
from collections import OrderedDict
from collections.abc import Iterable
from typing import NamedTuple

from stage1.errors import AlreadyExists, KernelError, PodError
from stage1.pod.model import Pod, Port

log = logging.getLogger("clearpod.loopback")

HOST = "::1"
HOST_IPS = ("", "::", HOST)
"""Host addresses of a port that ::1 is one of."""
CONNECT_S = 30.0
CHUNK_BYTES = 1 << 18


class LoopbackPorts:
    """`title` is the pod's display name."""

    def __init__(self, title: str) -> None:
        self._title, self._target = title, ""
        self._servers: list[asyncio.Server] = []
        self._relays: list[Relay] = []
        self._connections: set[asyncio.Task[None]] = set()

    async def open(self, pod: Pod, ips: tuple[str, ...]) -> None:
        """Listen for the pod's host ports; its first IPv6 address of `ips`, else the first one, is where they lead.

        Fine where the host has no ::1. Undo: `close`. Raises AlreadyExists, listening to nothing, when a program of
        the host has one of the ports.
        """
        self._target = next((ip for ip in ips if ":" in ip), ips[0] if ips else "")
        try:
            for port in served(pod.ports) if ips else ():
                await self._listen(port)
        except BaseException:
            self.close()
            raise

    async def reopen(self, pod: Pod, ips: tuple[str, ...]) -> None:
        """Like `open` for a pod that is running already: a port that can't be bound is logged and skipped."""
        try:
            await self.open(pod, ips)
        except PodError as error:
            log.warning("loopback.lost", extra={"title": self._title, "error": str(error)})

    def close(self) -> None:
        """Stop listening and close all connections. Idempotent."""
        for server in self._servers:
            server.close()
        for relay in self._relays:
            relay.close()
        for task in self._connections:
            task.cancel()
        self._servers, self._relays = [], []

    async def _listen(self, port: Port) -> None:
        listener = _bound(port)
        if listener is None:
            return
        if port.protocol == "udp":
            self._relays.append(Relay(listener, (self._target, port.container_port)))
            return
        try:

            def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                self._begin(port, reader, writer=writer)

            self._servers.append(await asyncio.start_server(connected, sock=listener, limit=CHUNK_BYTES))
        except BaseException:
            listener.close()
            raise

    def _begin(self, port: Port, reader: asyncio.StreamReader, *, writer: asyncio.StreamWriter) -> None:
        name = f"{self._title}, [{HOST}]:{port.host_port}"
        task = asyncio.get_running_loop().create_task(self._join(port, reader, writer=writer), name=name)
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)

    async def _join(self, port: Port, reader: asyncio.StreamReader, *, writer: asyncio.StreamWriter) -> None:
        """Both ways until both have ended; a way that breaks breaks the other, as with one connection."""
        there = None
        try:
            async with asyncio.timeout(CONNECT_S):
                back, there = await asyncio.open_connection(self._target, port.container_port, limit=CHUNK_BYTES)
            async with asyncio.TaskGroup() as both:
                both.create_task(_pump(reader, there))
                both.create_task(_pump(back, writer))
        except* (OSError, TimeoutError) as broken:
            log.debug("loopback.broken", extra={"title": self._title, "error": str(broken.exceptions[0])})
            writer.transport.abort()
        finally:
            for end in (writer, there):
                if end is not None:
                    end.close()


def served(ports: Iterable[Port]) -> list[Port]:
    """Return the ports that `LoopbackPorts` listens on."""
    return [port for port in ports if port.host_ip in HOST_IPS and port.protocol in ("tcp", "udp")]


def _bound(port: Port) -> socket.socket | None:
    """A socket that has the port, None where the host has no ::1."""
    kind = socket.SOCK_DGRAM if port.protocol == "udp" else socket.SOCK_STREAM
    with contextlib.ExitStack() as stack:
        try:
            made = stack.enter_context(socket.socket(socket.AF_INET6, kind))
            made.setblocking(False)
            if kind == socket.SOCK_STREAM:
                made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            made.bind((HOST, port.host_port))
        except OSError as error:
            if error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                return None
            if error.errno == errno.EADDRINUSE:
                raise AlreadyExists(_taken(port)) from None
            raise KernelError("bind", error.errno or 0, f"[{HOST}]:{port.host_port}") from None
        stack.pop_all()
        return made


def _taken(port: Port) -> str:
    flag = "u" if port.protocol == "udp" else "t"
    what = f"{port.protocol} port {port.host_port} of the host is in use on {HOST} by a program outside of any pod"
    return f"{what}; `ss -lnp{flag} sport = :{port.host_port}` shows the program"


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    while data := await source.read(CHUNK_BYTES):
        sink.write(data)
        await sink.drain()
    if sink.can_write_eof():
        sink.write_eof()


# -- UDP ---------------------------------------------------------------------------------------------------------------
# Each client has a socket of its own. Datagrams that find no room are dropped, as UDP may; a client that is silent
# for a minute is forgotten.


IDLE_S = 60.0
MOST_CLIENTS = 1024
AT_A_TIME = 16
"""Datagrams that are passed on before others get their turn."""
_MOST_BYTES = 1 << 16

Sender = tuple[str, int, int, int]


class _Client(NamedTuple):
    socket: socket.socket
    seen_s: float


class Relay:
    """Relays the datagrams of `listener`, a bound, non-blocking socket that it owns from now on."""

    def __init__(self, listener: socket.socket, target: tuple[str, int], *, idle_s: float = IDLE_S) -> None:
        self._listener, self._target, self._idle_s = listener, target, idle_s
        self._family = socket.AF_INET6 if ":" in target[0] else socket.AF_INET
        self._clients: OrderedDict[Sender, _Client] = OrderedDict()
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(listener, self._arrived)
        self._expiry = self._loop.call_later(idle_s, self._expire)

    def close(self) -> None:
        """Close the sockets of all clients and the listener. Idempotent."""
        self._expiry.cancel()
        if self._listener.fileno() >= 0:
            self._loop.remove_reader(self._listener)
            self._listener.close()
        for who in list(self._clients):
            self._forget(who)

    def _arrived(self) -> None:
        for _ in range(AT_A_TIME):
            try:
                data, who = self._listener.recvfrom(_MOST_BYTES)
            except OSError:
                return
            with contextlib.suppress(OSError):
                self._client(who).send(data)

    def _client(self, who: Sender) -> socket.socket:
        known = self._clients.pop(who, None)
        there = known.socket if known else self._connect(who)
        self._clients[who] = _Client(there, self._loop.time())
        return there

    def _connect(self, who: Sender) -> socket.socket:
        if len(self._clients) >= MOST_CLIENTS:
            self._forget(next(iter(self._clients)))
        there = socket.socket(self._family, socket.SOCK_DGRAM)
        try:
            there.setblocking(False)
            there.connect(self._target)
        except OSError:
            there.close()
            raise
        self._loop.add_reader(there, self._answered, there, who)
        return there

    def _answered(self, there: socket.socket, who: Sender) -> None:
        for _ in range(AT_A_TIME):
            try:
                self._listener.sendto(there.recv(_MOST_BYTES), who)
            except OSError:
                return

    def _forget(self, who: Sender) -> None:
        there = self._clients.pop(who).socket
        self._loop.remove_reader(there)
        there.close()

    def _expire(self) -> None:
        """Drop clients that were silent for too long; the oldest are first."""
        before = self._loop.time() - self._idle_s
        for who, client in list(self._clients.items()):
            if client.seen_s > before:
                break
            self._forget(who)
        self._expiry = self._loop.call_later(self._idle_s, self._expire)
