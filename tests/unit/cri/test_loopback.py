# SPDX-License-Identifier: Apache-2.0
"""Host ports on ::1, with real sockets; the pod is a program on 127.0.0.1."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from cri.live import loopback
from stage1.errors import AlreadyExists
from stage1.linux import namespace
from stage1.pod.model import Pod, Port
from tests.fakes.patience import PATIENCE

ONLY_V4 = ("127.0.0.1",)


def free_port(kind: int = socket.SOCK_STREAM) -> int:
    with socket.socket(socket.AF_INET6, kind) as one:
        one.bind(("::1", 0))
        return int(one.getsockname()[1])


def pod(*ports: Port) -> Pod:
    return Pod("1", "web", ports=ports)


@asynccontextmanager
async def opened(*ports: Port, ips: tuple[str, ...] = ONLY_V4) -> AsyncIterator[loopback.LoopbackPorts]:
    made = loopback.LoopbackPorts("pod default/web")
    await made.open(pod(*ports), ips)
    try:
        yield made
    finally:
        made.close()
        await asyncio.sleep(0)  # those that were cut end


@asynccontextmanager
async def program(serve: object, host: str = "127.0.0.1") -> AsyncIterator[int]:
    """A TCP server in the pod's place; its port."""
    server = await asyncio.start_server(serve, host, 0)  # type: ignore[arg-type]
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


async def run_uncancellable(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answers with what it was sent, only after the sender has ended."""
    writer.write(await reader.read())
    writer.close()


async def answer_to(port: int, data: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("::1", port)
    writer.write(data)
    writer.write_eof()
    answer = await reader.read()
    writer.close()
    return answer


async def answer_or_reset(port: int) -> bytes:
    try:
        return await answer_to(port, b"hi")
    except ConnectionError:
        return b""


@pytest.mark.parametrize(
    ("port", "is_served"),
    [
        (Port(80, 8080), True),
        (Port(80, 8080, "udp", "::"), True),
        (Port(80, 8080, "tcp", "::1"), True),
        (Port(80, 8080, "tcp", "127.0.0.1"), False),
        (Port(80, 8080, "tcp", "0.0.0.0"), False),
        (Port(80, 8080, "tcp", "fd00::1"), False),
        (Port(80, 8080, "sctp"), False),
    ],
)
def test_ports_of_every_address_and_of_the_loopback_are_served(port: Port, is_served: bool) -> None:
    assert loopback.served([port]) == ([port] if is_served else [])


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_a_connection_carries_both_directions_and_each_ends_by_itself(host: str) -> None:
    data, port = os.urandom(3 << 20), free_port()
    async with program(run_uncancellable, host) as there, opened(Port(there, port), ips=(host,)):
        assert await asyncio.gather(answer_to(port, data), answer_to(port, b"")) == [data, b""]


async def test_the_pods_ipv6_address_is_taken_first() -> None:
    port = free_port()
    async with program(run_uncancellable, "::1") as there, opened(Port(there, port), ips=("127.0.0.1", "::1")):
        assert await answer_to(port, b"hi") == b"hi"


async def test_without_a_listener_in_the_pod_the_connection_ends_at_once() -> None:
    port = free_port()
    async with opened(Port(free_port(), port)):
        assert await asyncio.wait_for(answer_or_reset(port), 5 * PATIENCE) == b""


async def test_close_cuts_what_is_connected_and_gives_the_port_back() -> None:
    port = free_port()
    async with program(run_uncancellable) as there, opened(Port(there, port)) as ports:
        reader, writer = await asyncio.open_connection("::1", port)
        writer.write(b"x")
        await asyncio.sleep(0.05)
        ports.close()
        ports.close()
        assert await asyncio.wait_for(reader.read(), 5 * PATIENCE) == b""
        writer.close()
        with pytest.raises(ConnectionRefusedError):
            await answer_to(port, b"")


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
async def test_a_port_that_a_program_has_is_refused_by_name_and_no_other_is_kept(kind: socket.SocketKind) -> None:
    free = free_port()
    with socket.socket(socket.AF_INET6, kind) as holder:
        holder.bind(("::", 0))
        if kind == socket.SOCK_STREAM:
            holder.listen()
        protocol, taken = "tcp" if kind == socket.SOCK_STREAM else "udp", holder.getsockname()[1]
        ports = loopback.LoopbackPorts("pod default/web")
        with pytest.raises(AlreadyExists, match=f"{protocol} port {taken} .*::1 by a program"):
            await ports.open(pod(Port(80, free), Port(80, taken, protocol)), ONLY_V4)
        await ports.reopen(pod(Port(80, taken, protocol)), ONLY_V4)
    with pytest.raises(ConnectionRefusedError):
        await answer_to(free, b"")


async def test_a_host_without_ipv6_has_nothing_to_serve() -> None:
    path = f"/run/netns/t-{os.urandom(4).hex()}"
    namespace.make_net(path)
    try:
        with namespace.inside_net(path):
            async with opened(Port(80, 8080), Port(80, 8080, "udp")):
                pass
    finally:
        namespace.remove_net(path)


def echo(relayed: socket.socket) -> None:
    data, who = relayed.recvfrom(65536)
    relayed.sendto(data.upper(), who)


async def ask(client: socket.socket, port: int, data: bytes) -> bytes:
    loop = asyncio.get_running_loop()
    await loop.sock_sendto(client, data, ("::1", port))
    return await asyncio.wait_for(loop.sock_recv(client, 65536), 5 * PATIENCE)


def client() -> socket.socket:
    made = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    made.setblocking(False)
    return made


async def test_datagrams_of_many_clients_are_answered_correctly() -> None:
    port, loop = free_port(socket.SOCK_DGRAM), asyncio.get_running_loop()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as there, client() as one, client() as two:
        there.bind(("127.0.0.1", 0))
        loop.add_reader(there, echo, there)
        async with opened(Port(there.getsockname()[1], port, "udp")):
            answers = await asyncio.gather(ask(one, port, b"a" * 8192), ask(two, port, b"b"))
            assert answers == [b"A" * 8192, b"B"]
        loop.remove_reader(there)
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as second:
        second.bind(("::1", port))


async def test_a_silent_client_is_forgotten_and_may_come_back() -> None:
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as there, client() as one:
        there.bind(("127.0.0.1", 0))
        loop.add_reader(there, echo, there)
        listener = client()
        listener.bind(("::1", 0))
        port = listener.getsockname()[1]
        relay = loopback.Relay(listener, there.getsockname(), idle_s=0.1)
        before = len(os.listdir("/proc/self/fd"))
        assert await ask(one, port, b"x") == b"X"
        assert len(os.listdir("/proc/self/fd")) == before + 1
        async with asyncio.timeout(5 * PATIENCE):
            while len(os.listdir("/proc/self/fd")) != before:
                await asyncio.sleep(0.05)
        assert await ask(one, port, b"y") == b"Y"
        relay.close()
        relay.close()
        loop.remove_reader(there)
