# SPDX-License-Identifier: Apache-2.0
"""Port-forward over SPDY, plain and through a WebSocket, against fake guests and real ones. As critest asks it."""

import asyncio
import hashlib
import random
import socket
from typing import Any

import pytest

from cri.streaming import forward as forwarding
from tests.fakes.patience import PATIENCE
from tests.fakes.spdy_client import SpdyClient, Stream

from .conftest import Client, World
from .kept_pod import kept_vms, kept_world, running_in_kept_pod

__all__ = ["kept_vms", "kept_world"]

pytestmark = pytest.mark.timeout(240)

FORWARD = ("portforward.k8s.io",)
MIB = 1 << 20


@pytest.fixture(params=["spdy", "websocket"])
def tunnelled(request: pytest.FixtureRequest) -> bool:
    """Whether a WebSocket carries it."""
    return bool(request.param == "websocket")


async def client_of(cri: Client, pod: str, tunnelled: bool) -> SpdyClient:
    """Ask and connect."""
    url = (await cri("PortForward", pod_sandbox_id=pod)).url
    return await (SpdyClient.tunnel(url) if tunnelled else SpdyClient.connect(url, FORWARD))


async def pair(client: SpdyClient, port: int, number: int) -> tuple[Stream, Stream]:
    """The error and the data stream of one connection."""
    names: dict[str, Any] = {"port": str(port), "requestid": str(number)}
    error = await client.open("error", **names)
    await error.send(b"", fin=True)
    return error, await client.open("data", **names)


async def get(client: SpdyClient, port: int, number: int, path: str) -> bytes:
    """An HTTP request through it; the body."""
    error, data = await pair(client, port, number)
    await data.send(f"GET {path} HTTP/1.0\r\n\r\n".encode())
    async with asyncio.timeout(90 * PATIENCE):
        await data.ended.wait()
    assert not error.data, error.data
    head, _, body = bytes(data.data).partition(b"\r\n\r\n")
    assert b" 200 " in head.splitlines()[0], head
    return body


def free_port() -> int:
    """Free on the host, where the ports of fake pods are."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def test_a_server_on_the_pods_loopback_serves_many_at_once(kept_world: World, tunnelled: bool) -> None:
    port = free_port()
    script = f"""mkdir -p /tmp/clearpod-www; cd /tmp/clearpod-www; echo hi > small; seq 1000000 1012499 > part; i=0
        while [ $i -lt 100 ]; do echo part $i; cat part; i=$((i+1)); done > big
        exec busybox httpd -f -p 127.0.0.1:{port} -h /tmp/clearpod-www"""
    part = b"".join(b"%d\n" % n for n in range(1_000_000, 1_012_500))
    big = b"".join(b"part %d\n" % n + part for n in range(100))
    async with kept_world.daemon() as cri:
        c = await running_in_kept_pod(cri, kept_world, "sh", "-c", script)
        pod = (await cri("ListContainers")).containers[0].pod_sandbox_id
        client = await client_of(cri, pod, tunnelled)
        while True:
            error, data = await pair(client, port, 0)
            await data.send(b"", fin=True)
            await error.ended.wait()
            if not error.data:
                break
            assert b"Connection refused" in error.data
            await asyncio.sleep(0.1)
        bodies = await asyncio.gather(*(get(client, port, n, "/small") for n in range(1, 9)))
        assert bodies == [b"hi\n"] * 8
        await client.ping(1)
        assert hashlib.sha256(await get(client, port, 9, "/big")).digest() == hashlib.sha256(big).digest()
        assert client.pongs == [1]
        client.close()
        await cri("StopContainer", container_id=c, timeout=0)


async def test_a_port_without_server_is_an_error_and_the_connection_continues(
    kept_world: World, tunnelled: bool
) -> None:
    async with kept_world.daemon() as cri:
        await running_in_kept_pod(cri, kept_world)
        pod = (await cri("ListContainers")).containers[0].pod_sandbox_id
        client = await client_of(cri, pod, tunnelled)
        for number, port, why in [
            (1, free_port(), b"Connection refused"),
            (2, 0, b"is not a port"),
            (3, 99999, b"port"),
        ]:
            error, data = await pair(client, port, number)
            async with asyncio.timeout(20 * PATIENCE):
                await error.ended.wait()
                await data.ended.wait()
            assert why in error.data, error.data
        await client.ping(3)
        async with asyncio.timeout(5 * PATIENCE):
            while client.pongs != [3]:
                await asyncio.sleep(0.01)
        client.close()


class Server:
    """A server on the host's loopback, which is where a fake pod's ports are. `serve` gets each connection."""

    def __init__(self, serve: Any) -> None:
        self._serve = serve
        self.done: list[Any] = []

    async def __aenter__(self) -> int:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return int(self._server.sockets[0].getsockname()[1])

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._serve(reader, writer)
        except ConnectionError as error:
            self.done.append(error)
        finally:
            writer.close()


async def test_64_mib_go_in_and_come_out_after_the_end_of_the_input(world: World, tunnelled: bool) -> None:
    block = random.Random(3).randbytes(MIB)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer only when the client has ended, and slowly: half a connection must live as long as it is used."""
        received = await reader.read(-1)
        await asyncio.sleep(2)
        writer.write(received)
        await writer.drain()

    async with world.daemon() as cri, Server(serve) as port:
        client = await client_of(cri, await cri.pod(), tunnelled)
        error, data = await pair(client, port, 1)
        for _ in range(64):
            await data.send(block)
        await data.send(b"", fin=True)
        async with asyncio.timeout(60 * PATIENCE):
            await data.ended.wait()
        assert data.data == block * 64 and not error.data
        client.close()


async def test_a_connection_ends_before_its_pod_is_suspended_and_the_client_stays_connected(
    world: World, tunnelled: bool
) -> None:
    got: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        got.append(await reader.read(3))
        got.append(await reader.read(-1))

    async with world.daemon() as cri, Server(serve) as port:
        pod = await cri.pod()
        gate = cri.node.pods.get(pod).gate
        client = await client_of(cri, pod, tunnelled)
        _, data = await pair(client, port, 1)
        await data.send(b"abc")
        async with asyncio.timeout(20 * PATIENCE):
            while not got:
                await asyncio.sleep(0.01)
            await gate.dismiss("the pod is about to be suspended")
            assert not gate._clients
            await data.ended.wait()
            while len(got) < 2:
                await asyncio.sleep(0.01)
        assert got == [b"abc", b""]
        await client.ping(7)
        async with asyncio.timeout(5 * PATIENCE):
            while client.pongs != [7]:
                await asyncio.sleep(0.01)
        client.close()


async def test_a_server_that_ends_first_still_gets_what_the_client_sends(world: World, tunnelled: bool) -> None:
    got: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"bye")
        writer.write_eof()
        got.append(await reader.read(-1))

    async with world.daemon() as cri, Server(serve) as port:
        client = await client_of(cri, await cri.pod(), tunnelled)
        _, data = await pair(client, port, 1)
        async with asyncio.timeout(10 * PATIENCE):
            await data.ended.wait()
        await data.send(b"last words", fin=True)
        async with asyncio.timeout(10 * PATIENCE):
            while not got:
                await asyncio.sleep(0.01)
        assert got == [b"last words"] and data.data == b"bye"
        client.close()


async def test_clients_and_streams_that_go_cut_their_connections(world: World, tunnelled: bool) -> None:
    ends: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"up")
        try:
            ends.append(await reader.read(-1))
        except ConnectionError:
            ends.append(b"reset")

    async with world.daemon() as cri, Server(serve) as port:
        client = await client_of(cri, await cri.pod(), tunnelled)
        streams = [(await pair(client, port, n))[1] for n in (1, 2)]
        async with asyncio.timeout(10 * PATIENCE):
            while any(stream.data != b"up" for stream in streams):
                await asyncio.sleep(0.01)
            await streams[0].cancel()
            while len(ends) < 1:
                await asyncio.sleep(0.01)
            client.close()
            while len(ends) < 2:
                await asyncio.sleep(0.01)


async def test_the_pods_end_ends_its_connections(world: World, tunnelled: bool) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"up")
        await reader.read(-1)

    async with world.daemon() as cri, Server(serve) as port:
        client = await client_of(cri, pod := await cri.pod(), tunnelled)
        error, data = await pair(client, port, 1)
        async with asyncio.timeout(10 * PATIENCE):
            while data.data != b"up":
                await asyncio.sleep(0.01)
            await cri("StopPodSandbox", pod_sandbox_id=pod)
            await data.ended.wait()
            late, _ = await pair(client, port, 2)
            await late.ended.wait()
        assert not error.data and b"not ready" in late.data
        client.close()


async def test_half_pairs_and_doubles_are_reset_and_old_clients_pair_by_number(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forwarding, "SETUP_S", 0.3)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"old")

    async with world.daemon() as cri, Server(serve) as port:
        client = await client_of(cri, await cri.pod(), False)
        error = await client.open("error", port=str(port))
        data = await client.open("data", port=str(port))
        async with asyncio.timeout(10 * PATIENCE):
            await data.ended.wait()
            await error.ended.wait()
        assert data.data == b"old" and not error.data
        half = await client.open("error", port=str(port), requestid="9")
        double = await client.open("error", port=str(port), requestid="9")
        odd = await client.open("stdout", port=str(port), requestid="8")
        async with asyncio.timeout(10 * PATIENCE):
            for stream in (half, double, odd):
                await stream.ended.wait()
        assert (half.reset, double.reset, odd.reset) == (5, 1, 1)
        client.close()
