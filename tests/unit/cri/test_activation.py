# SPDX-License-Identifier: Apache-2.0
"""Connections to a port of a pod whose guest is saved: on a real device in a netns without another host."""

import asyncio
import os
import secrets
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from cri.live.activation import FRAMES, Activation
from stage1.linux import namespace
from stage1.net import activation
from stage1.net.settings import netns_path
from tests.fakes.patience import PATIENCE

IP, MAC = "10.77.8.2", "0a:58:0a:4d:08:02"


class Wire:
    """A pod's netns with eth0, and a peer's at the other end."""

    def __init__(self) -> None:
        self.pod = secrets.token_hex(32)
        self.peer = netns_path(secrets.token_hex(32))

    def talk(self, port: int, kind: int = socket.SOCK_STREAM, limit_s: float = 0.5) -> None:
        """From the peer; nobody takes it."""
        with namespace.inside_net(self.peer), socket.socket(socket.AF_INET, kind) as made:
            made.settimeout(limit_s)
            try:
                made.connect((IP, port))
                made.send(b"x")
            except TimeoutError:
                pass


@pytest.fixture
def wire() -> Iterator[Wire]:
    if os.geteuid():
        pytest.skip("needs root")
    made = Wire()
    with ExitStack() as undo:
        for path in (netns_path(made.pod), made.peer):
            namespace.make_net(path)
            undo.callback(namespace.remove_net, path)
        inner, outer = (os.path.basename(path) for path in (netns_path(made.pod), made.peer))
        for line in (
            f"link add eth0 netns {inner} address {MAC} type veth peer name out netns {outer}",
            f"-n {inner} link set eth0 up",
            f"-n {outer} link set out up",
            f"-n {outer} addr add 10.77.8.1/24 dev out",
        ):
            subprocess.run(["ip", *line.split()], check=True)
        yield made


async def test_it_rings_once_for_a_port_and_for_nothing_else(wire: Wire) -> None:
    rung: list[bool] = []
    called, listener = asyncio.Event(), Activation("pod default/web")
    endpoints = activation.endpoints(MAC, (IP, "fd77::2"), ports={("tcp", 80), ("udp", 53)})

    def activate() -> None:
        rung.append(True)
        called.set()

    for port, kind in ((80, socket.SOCK_STREAM), (53, socket.SOCK_DGRAM)):
        called.clear()
        await listener.open(wire.pod, "eth0", endpoints=endpoints, activate=activate)
        await asyncio.to_thread(wire.talk, 81)
        assert not called.is_set(), "another port"
        await asyncio.to_thread(wire.talk, port, kind)
        async with asyncio.timeout(10 * PATIENCE):
            await called.wait()
        await asyncio.to_thread(wire.talk, port, kind, 0.1)
    assert len(rung) == 2


async def test_a_flood_of_other_frames_is_looked_at_in_turns(wire: Wire) -> None:
    called, listener = asyncio.Event(), Activation("pod default/web")
    await listener.open(
        wire.pod, "eth0", endpoints=activation.endpoints(MAC, (IP,), ports={("tcp", 80)}), activate=called.set
    )
    await asyncio.to_thread(wire.talk, 81, limit_s=0.1)  # now the peer knows the address

    def flood() -> None:
        with namespace.inside_net(wire.peer), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as made:
            for _ in range(20 * FRAMES):
                made.sendto(b"x", (IP, 81))

    await asyncio.to_thread(flood)
    assert not called.is_set()
    async with asyncio.timeout(30 * PATIENCE):
        while not called.is_set():
            await asyncio.to_thread(wire.talk, 80, limit_s=0.3)
    listener.close()
    listener.close()


async def test_a_pod_without_that_device_is_logged_and_no_error() -> None:
    listener = Activation("pod default/web")
    await listener.open(
        "0" * 64, "eth0", endpoints=activation.endpoints(MAC, (IP,), ports=set()), activate=lambda: None
    )
    listener.close()
