# SPDX-License-Identifier: Apache-2.0
"""A client with a token is served whatever others do to the streaming port, and their connections leave nothing
behind.
"""

import asyncio
import os
import resource
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import pytest

from cri.cli.serve import raise_descriptors
from cri.streaming import listener
from tests.fakes.patience import PATIENCE
from tests.fakes.streaming_client import TRANSPORTS

from .conftest import Client, World
from .test_streaming import running

ATTACKERS, EXECS = 1030, 10


@pytest.fixture(autouse=True)
def many_descriptors() -> Iterator[None]:
    """As `clearpod serve` has them."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    raise_descriptors()
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def address(cri: Client) -> tuple[str, int]:
    """Where the streaming server listens."""
    assert cri.node.streaming is not None
    parts = urlsplit(f"http://{cri.node.streaming.address}")
    return str(parts.hostname), int(parts.port or 0)


@asynccontextmanager
async def flood(cri: Client, *arguments: str) -> AsyncIterator[asyncio.StreamReader]:
    """Attackers in a process of their own, all of them connected; their output."""
    host, port = address(cri)
    argv = [sys.executable, "-m", "tests.cri.flooder", host, str(port), str(ATTACKERS), *arguments]
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*argv, stdin=pipe, stdout=pipe)
    assert process.stdout is not None
    try:
        async with asyncio.timeout(60 * PATIENCE):
            assert await process.stdout.readline() == b"up\n"
        yield process.stdout
    finally:
        process.kill()
        await process.wait()
        process._transport.close()  # type: ignore[attr-defined]


async def exec_works(cri: Client, container: str, kind: str) -> None:
    """By a token, over a connection that is made now."""
    url = (await cri("Exec", container_id=container, cmd=["echo", "in"], stdout=True)).url
    async with asyncio.timeout(60 * PATIENCE):
        talk = await TRANSPORTS[kind](url, {"stdout"})
        assert await talk.exit_code() == 0
    assert talk.output["stdout"] == b"in\n"


def descriptors() -> int:
    """How many this process has, the daemon's among them."""
    return len(os.listdir("/proc/self/fd"))


async def come_back(before: int) -> None:
    """Wait until no descriptor more is open than before."""
    async with asyncio.timeout(30 * PATIENCE):
        while descriptors() > before:
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("kind", sorted(TRANSPORTS))
async def test_idle_connections_block_no_others(world: World, kind: str) -> None:
    async with world.daemon() as cri:
        c = await running(cri)
        await exec_works(cri, c, kind)
        before = descriptors()
        async with flood(cri):
            for _ in range(EXECS):
                await exec_works(cri, c, kind)
        await come_back(before)


@pytest.mark.parametrize("kind", sorted(TRANSPORTS))
async def test_a_client_that_keeps_reconnecting_blocks_no_others(world: World, kind: str) -> None:
    async with world.daemon() as cri:
        c = await running(cri)
        await exec_works(cri, c, kind)
        before = descriptors()
        async with flood(cri, "again") as output:
            for _ in range(EXECS):
                assert await output.readline() == b"again\n"
                await exec_works(cri, c, kind)
        await come_back(before)


async def test_a_stream_that_runs_is_not_one_of_those_that_wait(world: World) -> None:
    async with world.daemon() as cri:
        c = await running(cri)
        url = (await cri("Exec", container_id=c, cmd=["cat"], stdin=True, stdout=True)).url
        talk = await TRANSPORTS["spdy"](url, {"stdin", "stdout"})
        async with flood(cri, "again") as output:
            assert await output.readline() == b"again\n"
        await asyncio.sleep(listener.HEAD_S + 0.5)
        await talk.send(b"still here")
        await talk.end_input()
        assert await talk.exit_code() == 0 and talk.output["stdout"] == b"still here"


HALF = b"GET /exec/x HTTP/1.1\r\nHost: x\r\n"


@pytest.mark.parametrize("data", [b"", b"GET /", HALF, HALF + b"a: b"], ids=["nothing", "a word", "a line", "more"])
async def test_half_a_head_is_waited_for_no_longer_than_it_may_take(world: World, data: bytes) -> None:
    async with world.daemon() as cri:
        reader, writer = await asyncio.open_connection(*address(cri))
        writer.write(data)
        begun = asyncio.get_running_loop().time()
        async with asyncio.timeout((listener.HEAD_S + 10) * PATIENCE):
            assert await _rest(reader) == b""
        assert asyncio.get_running_loop().time() - begun > listener.HEAD_S - 1
        writer.close()


async def test_a_head_byte_by_byte_gains_no_time(world: World) -> None:
    async with world.daemon() as cri:
        reader, writer = await asyncio.open_connection(*address(cri))

        async def trickle() -> None:
            for byte in HALF * 1000:
                writer.write(bytes([byte]))
                await asyncio.sleep(0.1)

        trickling = asyncio.ensure_future(trickle())
        async with asyncio.timeout((listener.HEAD_S + 10) * PATIENCE):
            assert await _rest(reader) == b""
        trickling.cancel()
        writer.close()


async def test_a_client_that_ends_its_side_in_the_middle_of_the_head_is_disconnected_at_once(world: World) -> None:
    async with world.daemon() as cri:
        before = descriptors()
        reader, writer = await asyncio.open_connection(*address(cri))
        writer.write(HALF)
        writer.write_eof()
        async with asyncio.timeout(10 * PATIENCE):
            assert await _rest(reader) == b""
        writer.close()
        await come_back(before)


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET /exec/guess HTTP/1.1\r\nHost: x\r\n\r\n", b"404"),
        (b"GET /exec/guess HTTP/1.1\r\nHost: x\r\n\r\nmore and more", b"404"),
        (b"GET /exec/" + b"x" * 10000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", b"404"),
        (b"GET /exec/\xe4 HTTP/1.1\r\nHost: x\r\n\r\n", b"40"),
        (b"PUT /exec/x HTTP/1.1\r\nHost: x\r\n\r\n", b"405"),
        (b"POST /exec/x HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello", b"400"),
        (b"POST /exec/x HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n", b"400"),
        (b"GET /exec/x HTTP/1.1\r\nHost: x\r\na: " + b"b" * 20000 + b"\r\n\r\n", b"431"),
        (b"x" * 20000, b"431"),
        (b"\n\n", b"400"),
    ],
)
async def test_a_request_without_a_token_is_answered_and_closed(world: World, data: bytes, status: bytes) -> None:
    async with world.daemon() as cri:
        before = descriptors()
        reader, writer = await asyncio.open_connection(*address(cri))
        writer.write(data)
        async with asyncio.timeout(10 * PATIENCE):
            assert (await _rest(reader)).startswith(b"HTTP/1.1 " + status)
        writer.close()
        await come_back(before)


async def _rest(reader: asyncio.StreamReader) -> bytes:
    """What comes until the end; a connection that is cut is at its end too."""
    try:
        return await reader.read(-1)
    except ConnectionError:
        return b""
