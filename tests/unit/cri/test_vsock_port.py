# SPDX-License-Identifier: Apache-2.0
"""The port that guests connect to. TCP stands in for vsock: 127.0.0.N is the guest with the context id 127.0.0.N."""

import asyncio
import socket
from typing import Any

import pytest

from cri import vsock
from cri.vsock import VsockPort


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The port numbers that were asked for, one for each listener."""
    ports: list[int] = []

    def listen(port: int) -> socket.socket:
        ports.append(port)
        return socket.create_server(("127.0.0.1", 0))

    monkeypatch.setattr(vsock.vsock, "listen", listen)
    return ports


async def connect(port: VsockPort, cid: str) -> vsock.Connection:
    return await asyncio.open_connection("127.0.0.1", port.listen(), local_addr=(cid, 0))


def accept(port: VsockPort, cid: str) -> "asyncio.Task[Any]":
    waiting: Any = cid
    return asyncio.ensure_future(port.accept(waiting))


async def end(port: VsockPort, *connections: vsock.Connection) -> None:
    port.close()
    for _, writer in connections:
        writer.close()
    await asyncio.sleep(0)
    for _, writer in connections:
        await writer.wait_closed()


async def test_each_guest_gets_its_own_connection_from_one_listener(opened: list[int]) -> None:
    port = VsockPort(0)
    waits = {cid: accept(port, cid) for cid in ("127.0.0.2", "127.0.0.3")}
    await asyncio.sleep(0)
    guests = {cid: await connect(port, cid) for cid in waits}
    for cid, (_, writer) in guests.items():
        writer.write(cid.encode())
    ours = {cid: await wait for cid, wait in waits.items()}
    for cid, (reader, _) in ours.items():
        assert await reader.read(100) == cid.encode()
    assert opened == [0]
    assert port.listen() > 1023
    await end(port, *guests.values(), *ours.values())


async def test_an_abandoned_connection_is_closed(opened: list[int]) -> None:
    port = VsockPort(0)
    wait = accept(port, "127.0.0.2")
    await asyncio.sleep(0)
    stranger = await connect(port, "127.0.0.3")
    assert await stranger[0].read() == b""
    first = await connect(port, "127.0.0.2")
    ours = await wait
    second = await connect(port, "127.0.0.2")
    assert await second[0].read() == b""
    ours[1].write(b"still here")
    assert await first[0].read(10) == b"still here"
    await end(port, stranger, first, second, ours)


async def test_who_waits_for_a_guest_that_is_gone_gets_nothing(opened: list[int]) -> None:
    port = VsockPort(0)
    wait = accept(port, "127.0.0.2")
    await asyncio.sleep(0)
    for _ in range(2):
        port.forget("127.0.0.2")  # type: ignore[arg-type]
    assert await wait is None
    await end(port)


async def test_a_port_that_was_never_used_can_be_closed(opened: list[int]) -> None:
    port = VsockPort(0)
    port.close()
    assert opened == []
    assert port.listen() > 1023
    await end(port)
