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
from collections.abc import Iterable

from cri.live.datagrams import Relay
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
