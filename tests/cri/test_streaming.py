# SPDX-License-Identifier: Apache-2.0
"""Exec over SPDY and over WebSocket, against fake guests and real ones. As critest asks it."""

import asyncio
import hashlib
import json
import random
import re
import socket
from typing import Any
from urllib.parse import urlsplit

import pytest

from cri.config_tables import Streaming
from cri.pb import runtime_pb2 as pb
from cri.streaming.process_streams import execute
from cri.streaming.server import StreamingServer
from cri.streaming.wire import InputQueue
from stage1.errors import AlreadyExists, BadRequest
from tests.fakes.patience import PATIENCE
from tests.fakes.spdy_client import SpdyClient
from tests.fakes.streaming_client import TRANSPORTS, Conversation, OverWebSocket
from tests.fakes.websocket_client import Refused, WebSocketClient

from .conftest import Client, World
from .kept_pod import kept_vms, kept_world, running_in_kept_pod

__all__ = ["kept_vms", "kept_world"]

pytestmark = pytest.mark.timeout(240)

SIZED = b'until [ "$(stty size)" = "%s" ]; do sleep 0.05; done; '
"""For a shell: it waits until its terminal has this size."""


@pytest.fixture(params=sorted(TRANSPORTS))
def transport(request: pytest.FixtureRequest) -> str:
    """Both protocols."""
    return str(request.param)


async def running(cri: Client, *command: str, **fields: Any) -> str:
    """A pod with a container that runs `command`; the container's id."""
    await cri("PullImage", image={"image": cri.image})
    pod = await cri.pod()
    container = await cri.container(pod, *(command or ("sleep", "1000")), **fields)
    await cri("StartContainer", container_id=container)
    return container


async def exec_in(cri: Client, transport: str, container: str, *command: str, **asked: bool) -> Conversation:
    """Exec, by default with stdout and stderr."""
    expected = asked or {"stdout": True, "stderr": True}
    url = (await cri("Exec", container_id=container, cmd=command, **expected)).url
    names = {"resize" if name == "tty" else name for name, is_asked in expected.items() if is_asked}
    return await TRANSPORTS[transport](url, names)


async def test_output_errors_and_exit_code_come_apart(kept_world: World, transport: str) -> None:
    async with kept_world.daemon() as cri:
        c = await running_in_kept_pod(cri, kept_world)
        talk = await exec_in(cri, transport, c, "sh", "-c", "echo -n hello; echo oh >&2; exit 7")
        status = await talk.status()
        assert talk.output["stdout"] == b"hello" and talk.output["stderr"] == b"oh\n"
        assert (status["status"], status["reason"]) == ("Failure", "NonZeroExitCode")
        assert status["details"]["causes"] == [{"reason": "ExitCode", "message": "7"}]
        talk = await exec_in(cri, transport, c, "true", stdout=True)
        assert await talk.status() == {"metadata": {}, "status": "Success"}


async def test_input_goes_in_and_its_end_too(kept_world: World, transport: str) -> None:
    data = random.Random(1).randbytes(1 << 20)
    async with kept_world.daemon() as cri:
        c = await running_in_kept_pod(cri, kept_world)
        talk = await exec_in(cri, transport, c, "sh", "-c", "cat; echo end >&2", stdin=True, stdout=True, stderr=True)
        await talk.send(data)
        await talk.end_input()
        assert await talk.exit_code() == 0
        assert talk.output["stdout"] == data and talk.output["stderr"] == b"end\n"


async def test_a_terminal_has_its_size_and_takes_what_is_typed(kept_world: World, transport: str) -> None:
    async with kept_world.daemon() as cri:
        c = await running_in_kept_pod(cri, kept_world)
        talk = await exec_in(cri, transport, c, "sh", tty=True, stdin=True, stdout=True)
        await talk.resize(132, 50)
        await talk.send(SIZED % b"50 132" + b"stty size; echo err >&2\n")
        output = await talk.until(b"err\r\n")
        assert b"50 132\r\n" in output
        await talk.resize(99, 33)
        await talk.send(SIZED % b"33 99" + b"stty size; exit 4\n")
        assert await talk.exit_code() == 4
        assert b"33 99\r\n" in talk.output["stdout"]


async def test_a_command_that_is_missing_is_an_error_of_the_stream(kept_world: World, transport: str) -> None:
    async with kept_world.daemon() as cri:
        c = await running_in_kept_pod(cri, kept_world)
        status = await (await exec_in(cri, transport, c, "no-such-command")).status()
        assert (status["status"], status["reason"], status["code"]) == ("Failure", "InternalError", 500)
        assert "no-such-command" in status["message"]


async def test_a_command_dies_with_its_client_and_the_container_does_not(kept_world: World, transport: str) -> None:
    async with kept_world.daemon() as cri:
        c, number = await running_in_kept_pod(cri, kept_world), random.randrange(1 << 20, 1 << 30)
        talk = await exec_in(cri, transport, c, "sh", "-c", f"echo up; sleep {number} & exec sleep {number}")
        await talk.until(b"up")
        talk.vanish()
        await nothing_left(cri, c)
        processes = ["sh", "-c", "cat /proc/[0-9]*/cmdline"]  # of the fake: the host's
        async with asyncio.timeout(10 * PATIENCE):
            while b"sleep\0%d" % number in (await cri("ExecSync", container_id=c, cmd=processes)).stdout:
                await asyncio.sleep(0.05)


async def nothing_left(cri: Client, container: str, limit_s: float = 15) -> None:
    """Wait until no exec is known any more."""
    pod, _ = cri.node.pods.get_container(container)
    async with asyncio.timeout(limit_s * PATIENCE):
        while pod.execs:
            await asyncio.sleep(0.02)


BLOCK = random.Random(2).randbytes(1 << 20)
MANY = 64


async def test_64_mib_both_ways_at_once_arrive_as_they_were(world: World, transport: str) -> None:
    async with world.daemon() as cri:
        c = await running(cri)
        talk = await exec_in(cri, transport, c, "cat", stdin=True, stdout=True)
        for _ in range(MANY):
            await talk.send(BLOCK)
        await talk.end_input()
        assert await talk.exit_code() == 0
        expected = hashlib.sha256(BLOCK * MANY).digest()
        assert hashlib.sha256(talk.output["stdout"]).digest() == expected


async def test_a_client_that_does_not_read_slows_the_command_and_loses_nothing(world: World, transport: str) -> None:
    async with world.daemon() as cri:
        c = await running(cri)
        talk = await exec_in(cri, transport, c, "seq", "1", "3000000", stdout=True)
        talk.reads.clear()
        await asyncio.sleep(1)
        assert any(guest._containers.jobs[1:] for guest in world.vmm.guests.values()), "it ended unread"
        ran = await cri("ExecSync", container_id=c, cmd=["echo", "beside"])
        assert ran.stdout == b"beside\n"
        talk.reads.set()
        assert await talk.exit_code() == 0
        assert bytes(talk.output["stdout"]).split() == [b"%d" % n for n in range(1, 3000001)]


async def test_a_command_that_does_not_read_holds_the_client_back_and_is_killed_when_that_is_gone(
    world: World, transport: str
) -> None:
    async with world.daemon() as cri:
        c = await running(cri)
        talk = await exec_in(cri, transport, c, "sleep", "1000", stdin=True, stdout=True)

        async def flood() -> None:
            """More than all buffers on the way."""
            for _ in range(MANY):
                await talk.send(BLOCK)

        flooding = asyncio.ensure_future(flood())
        await asyncio.wait({flooding}, timeout=5)
        assert not flooding.done(), "an endless amount was taken"
        flooding.cancel()
        talk.vanish()
        await nothing_left(cri, c)


class SlowSession:
    """A client to which every write takes a while."""

    version = 4

    def __init__(self) -> None:
        self.stdin, self.resize, self.got = InputQueue(), InputQueue(), b""

    async def ready(self) -> None: ...

    async def write(self, name: str, data: bytes) -> None:
        await asyncio.sleep(0.3)
        self.got += data


async def test_the_status_waits_for_the_last_byte_of_a_command_that_is_over(world: World) -> None:
    async with world.daemon() as cri:
        c = await running(cri)
        request = pb.ExecRequest(container_id=c, cmd=["sh", "-c", "seq 1 5000; seq 5001 8000"], stdout=True)
        client = SlowSession()
        status = await execute(cri.node, request, client=client)  # type: ignore[arg-type]
        assert json.loads(status)["status"] == "Success"
        assert client.got.split() == [b"%d" % n for n in range(1, 8001)]


async def test_a_url_works_once_and_only_for_what_it_was_made(world: World) -> None:
    async with world.daemon() as cri:
        c = await running(cri)
        url = (await cri("Exec", container_id=c, cmd=["true"], stdout=True)).url
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/exec/[\w-]{22}", url)
        base, token = url.rsplit("/exec/", 1)
        for wrong in (f"{base}/exec/{token[:-1]}", f"{base}/exec/", base + "/", f"{base}/exec/{'A' * 22}"):
            with pytest.raises(Refused, match="404"):
                await SpdyClient.connect(wrong)
        with pytest.raises(Refused, match="405"):
            await SpdyClient.connect(url, method="PUT")
        talk = await TRANSPORTS["spdy"](url, {"stdout"})
        assert await talk.exit_code() == 0
        with pytest.raises(Refused, match="404"):
            await SpdyClient.connect(url)
        url = (await cri("Exec", container_id=c, cmd=["true"], stdout=True)).url
        with pytest.raises(Refused, match="404"):
            await SpdyClient.connect(url.replace("/exec/", "/attach/"))


GARBAGE = [b"\0\1\2\r\n\r\n", b"GET / HTTP/1.1\r\nHost: x\r\n" + b"a: b\r\n" * 9999, b"GET\r\n\r\n"]


@pytest.mark.parametrize("data", GARBAGE, ids=["binary", "endless", "cut off"])
async def test_what_is_no_http_is_refused_and_others_are_served(world: World, data: bytes) -> None:
    async with world.daemon() as cri:
        c = await running(cri)
        talk = await exec_in(cri, "spdy", c, "sh", "-c", "read go; exit 2", stdin=True, stdout=True)
        parts = urlsplit((await cri("Exec", container_id=c, cmd=["true"], stdout=True)).url)
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        writer.write(data)
        async with asyncio.timeout(10 * PATIENCE):
            assert (await reader.read(-1)).startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 431 "))
        writer.close()
        await talk.send(b"go\n")
        assert await talk.exit_code() == 2


async def test_garbage_behind_the_upgrade_kills_the_command(world: World, transport: str) -> None:
    async with world.daemon() as cri:
        c = await running(cri)
        talk = await exec_in(cri, transport, c, "sleep", "1000", stdin=True, stdout=True)
        await asyncio.sleep(0.2)
        if isinstance(talk, OverWebSocket):
            await talk.client.write(b"\x09no such channel")
        else:
            await talk.client.write(b"\x80\x02" + bytes(100))
        async with asyncio.timeout(10 * PATIENCE):
            await talk.over.wait()
        await nothing_left(cri, c)


async def test_what_is_no_upgrade_is_refused_with_a_reason(world: World) -> None:
    async with world.daemon() as cri:
        c = await running(cri)

        async def url() -> str:
            return str((await cri("Exec", container_id=c, cmd=["true"], stdout=True)).url)

        with pytest.raises(Refused, match=r"(?s)403.*v4\.channel\.k8s\.io"):
            await SpdyClient.connect(await url(), ("v9.channel.k8s.io",))
        with pytest.raises(Refused, match="400"):
            await SpdyClient.connect(await url(), ())
        with pytest.raises(Refused, match="403"):
            await WebSocketClient.connect(await url(), ("SPDY/3.1+portforward.k8s.io",))


@pytest.mark.parametrize(
    ("rpc", "fields", "code"),
    [
        ("Exec", {"stdout": True, "cmd": ["true"]}, "INVALID_ARGUMENT"),
        ("Exec", {"container_id": "C", "cmd": ["true"]}, "INVALID_ARGUMENT"),
        (
            "Exec",
            {"container_id": "C", "cmd": ["true"], "tty": True, "stdout": True, "stderr": True},
            "INVALID_ARGUMENT",
        ),
        ("Exec", {"container_id": "C", "stdout": True}, "INVALID_ARGUMENT"),
        ("Exec", {"container_id": "gone", "cmd": ["true"], "stdout": True}, "NOT_FOUND"),
        ("Exec", {"container_id": "CREATED", "cmd": ["true"], "stdout": True}, "FAILED_PRECONDITION"),
        ("Attach", {"stdout": True}, "INVALID_ARGUMENT"),
        ("Attach", {"container_id": "C"}, "INVALID_ARGUMENT"),
        ("Attach", {"container_id": "C", "tty": True, "stderr": True}, "INVALID_ARGUMENT"),
        ("Attach", {"container_id": "gone", "stdout": True}, "NOT_FOUND"),
        ("Attach", {"container_id": "CREATED", "stdout": True}, "FAILED_PRECONDITION"),
        ("PortForward", {}, "INVALID_ARGUMENT"),
        ("PortForward", {"pod_sandbox_id": "gone"}, "NOT_FOUND"),
        ("PortForward", {"pod_sandbox_id": "POD", "port": [0]}, "INVALID_ARGUMENT"),
        ("PortForward", {"pod_sandbox_id": "POD", "port": [65536]}, "INVALID_ARGUMENT"),
    ],
)
async def test_requests_that_make_no_sense_are_refused(
    world: World, rpc: str, fields: dict[str, Any], code: str
) -> None:
    async with world.daemon() as cri:
        pod = await cri.pod()
        made = {"POD": pod, "C": await cri.container(pod, "sleep", "9"), "CREATED": ""}
        made["CREATED"] = await cri.container(pod, "sleep", "9", name="created")
        await cri("StartContainer", container_id=made["C"])
        given = {key: made.get(value, value) if isinstance(value, str) else value for key, value in fields.items()}
        assert (await cri.refused(rpc, **given))[0] == code


@pytest.mark.parametrize(
    ("address", "shown"), [("127.0.0.1", "127.0.0.1"), ("0.0.0.0", "127.0.0.1"), ("::1", r"\[::1\]")]
)
async def test_the_server_listens_on_the_configured_address_and_reports_it(
    world: World, address: str, shown: str
) -> None:
    world.config = world.config.but(streaming=Streaming(address=address))
    async with world.daemon() as cri:
        c = await running(cri)
        url = (await cri("Exec", container_id=c, cmd=["true"], stdout=True)).url
        assert re.match(rf"http://{shown}:\d+/exec/", url)
        assert await (await TRANSPORTS["spdy"](url, {"stdout"})).exit_code() == 0
        assert (await cri("Status", verbose=True)).info["streaming"] == urlsplit(url).netloc


async def test_an_address_that_can_not_be_is_reported(world: World) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen(1)
        port = other.getsockname()[1]
        async with world.daemon() as cri:
            with pytest.raises(AlreadyExists, match=rf"streaming\.address 127\.0\.0\.1, port {port}: .*taken"):
                await StreamingServer(cri.node, Streaming(port=port)).start()
            with pytest.raises(BadRequest, match="can't listen there"):
                await StreamingServer(cri.node, Streaming(address="192.0.2.1")).start()
            c = await running(cri)
            assert (await (await exec_in(cri, "spdy", c, "true", stdout=True)).exit_code()) == 0


async def test_too_many_urls_at_a_time_are_refused(world: World) -> None:
    async with world.daemon() as cri:
        c = await running(cri)
        for _ in range(1000):
            await cri("Exec", container_id=c, cmd=["true"], stdout=True)
        assert (await cri.refused("Exec", container_id=c, cmd=["true"], stdout=True))[0] == "RESOURCE_EXHAUSTED"


OLD = [
    ("spdy", ("v3.channel.k8s.io",), b"", 0),
    ("spdy", ("v2.channel.k8s.io",), b"command terminated with non-zero exit code: exit status 3", 3),
    ("spdy", ("channel.k8s.io",), b"", 0),
    ("websocket", ("v3.channel.k8s.io",), b"command terminated with non-zero exit code: exit status 3", 3),
    ("websocket", ("channel.k8s.io",), b"", 0),
]


@pytest.mark.parametrize(("kind", "protocols", "error", "code"), OLD)
async def test_old_protocols_send_errors_as_plain_text(
    world: World, kind: str, protocols: tuple[str, ...], error: bytes, code: int
) -> None:
    async with world.daemon() as cri:
        c = await running(cri)
        url = (await cri("Exec", container_id=c, cmd=["sh", "-c", f"echo hi; exit {code}"], stdout=True)).url
        talk = await TRANSPORTS[kind](url, {"stdout"}, protocols)
        async with asyncio.timeout(10 * PATIENCE):
            await talk.over.wait()
        assert bytes(talk.output["stdout"]) == b"hi\n" and bytes(talk.output["error"]) == error


async def test_an_end_of_the_daemon_ends_streams_with_a_status(world: World, transport: str) -> None:
    async with world.daemon() as cri:
        c = await running(cri)
        talk = await exec_in(cri, transport, c, "sleep", "1000")
        await asyncio.sleep(0.2)
    status = await talk.status(limit_s=5)
    assert status["status"] == "Failure" and "ending" in status["message"]
    async with world.daemon() as cri:
        assert (await cri("ExecSync", container_id=c, cmd=["echo", "lives"])).stdout == b"lives\n"


async def test_the_vms_end_ends_the_stream_with_a_status(world: World, transport: str) -> None:
    async with world.daemon() as cri:
        c = await running(cri)
        talk = await exec_in(cri, transport, c, "sleep", "1000")
        await asyncio.sleep(0.2)
        world.vmm.stop()
        status = await talk.status(limit_s=10)
        assert status["status"] == "Failure" and "virtual machine" in status["message"]
