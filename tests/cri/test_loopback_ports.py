# SPDX-License-Identifier: Apache-2.0
"""Host ports on ::1 over the life of pod and daemon; fake guests, and the pod's address is 127.0.0.1."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from cri.pb import runtime_pb2 as pb
from stage1.linux import process
from tests.fakes.cni import FakeCni
from tests.fakes.patience import PATIENCE

from .conftest import World
from .test_network import cni

__all__ = ["cni"]


@asynccontextmanager
async def greeter() -> AsyncIterator[int]:
    """What stands for a program in the pod; its port."""

    async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"hello")
        writer.close()

    async with await asyncio.start_server(greet, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]


def free_port() -> int:
    with socket.socket(socket.AF_INET6) as one:
        one.bind(("::1", 0))
        return int(one.getsockname()[1])


async def heard(port: int) -> bytes:
    """What the host receives on ::1; empty without a listener."""
    try:
        reader, writer = await asyncio.open_connection("::1", port)
    except ConnectionRefusedError:
        return b""
    output = await reader.read()
    writer.close()
    return output


async def test_the_port_is_there_from_run_to_stop_also_after_a_kill_and_a_restart(world: World, cni: FakeCni) -> None:
    cni.answer({"ips": [{"address": "127.0.0.1/8"}]})
    port = free_port()
    async with greeter() as there:
        mapping = pb.PortMapping(container_port=there, host_port=port)
        async with world.daemon() as cri:
            pod = await cri.pod(port_mappings=[mapping])
            assert await heard(port) == b"hello"
        assert await heard(port) == b"", "the daemon is down"
        async with world.daemon() as cri:
            assert await heard(port) == b"hello"
            await cri("StopPodSandbox", pod_sandbox_id=pod)
            assert await heard(port) == b""
            await cri("RemovePodSandbox", pod_sandbox_id=pod)


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
async def test_a_port_that_a_program_of_the_host_has_is_refused_and_nothing_stays(
    world: World, cni: FakeCni, protocol: str
) -> None:
    kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
    with socket.socket(socket.AF_INET6, kind) as holder:
        holder.bind(("::1", 0))
        if protocol == "tcp":
            holder.listen()
        port = holder.getsockname()[1]
        mapping = pb.PortMapping(protocol=protocol.upper(), container_port=80, host_port=port)  # type: ignore[arg-type]
        async with world.daemon() as cri:
            code, sentence = await cri.refused("RunPodSandbox", config=cri.sandbox(port_mappings=[mapping]))
            assert code == "ALREADY_EXISTS"
            assert f"{protocol} port {port} " in sentence and "::1" in sentence
            assert cni.left_over() == [] and world.left_over() == []


async def test_a_port_that_was_taken_while_the_daemon_was_down_costs_no_pod(
    world: World, cni: FakeCni, caplog: pytest.LogCaptureFixture
) -> None:
    port = free_port()
    async with world.daemon() as cri:
        pod = await cri.pod(port_mappings=[pb.PortMapping(container_port=80, host_port=port)])
    with socket.create_server(("::1", port), family=socket.AF_INET6):
        async with world.daemon() as cri:
            status = (await cri("PodSandboxStatus", pod_sandbox_id=pod)).status
            assert status.state == pb.SANDBOX_READY
            assert "loopback.lost" in caplog.messages
            await cri("RemovePodSandbox", pod_sandbox_id=pod)


async def test_the_daemon_keeps_no_descriptor_of_a_pod_that_went(world: World, cni: FakeCni) -> None:
    mapping = pb.PortMapping(protocol=pb.UDP, container_port=80, host_port=free_port())

    def sockets() -> str:
        return process.run(["ss", "-Hlnu", "src", "[::1]"], timeout_s=5 * PATIENCE).stdout.decode()

    before = sockets()
    async with world.daemon() as cri:
        pod = await cri.pod(port_mappings=[mapping])
        assert f"[::1]:{mapping.host_port}" in sockets()
        await cri("RemovePodSandbox", pod_sandbox_id=pod)
        assert sockets() == before
