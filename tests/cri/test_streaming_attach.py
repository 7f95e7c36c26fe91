# SPDX-License-Identifier: Apache-2.0
"""Attach over SPDY and over WebSocket, against fake guests and real ones. As critest asks it."""

import asyncio
from pathlib import Path

import pytest

from cri.streaming import process_streams
from tests.fakes.patience import PATIENCE
from tests.fakes.streaming_client import TRANSPORTS, Conversation

from .conftest import Client, World
from .kept_pod import kept_vms, kept_world, running_in_kept_pod
from .test_streaming import SIZED, running, transport

__all__ = ["kept_vms", "kept_world", "transport"]

pytestmark = pytest.mark.timeout(240)
SHELL = {"stdin": True, "stdin_once": True}


async def attach_to(cri: Client, transport: str, container: str, **asked: bool) -> Conversation:
    """Attach, and wait until it is."""
    url = (await cri("Attach", container_id=container, **asked)).url
    names = {"resize" if name == "tty" else name for name, is_asked in asked.items() if is_asked}
    _, live = cri.node.pods.get_container(container)
    before = sum(len(output.followers) for output in live.outputs.values())
    talk = await TRANSPORTS[transport](url, names)
    async with asyncio.timeout(10 * PATIENCE):
        while sum(len(output.followers) for output in live.outputs.values()) == before:
            await asyncio.sleep(0.01)
    return talk


async def test_a_shell_takes_commands_and_ends_with_the_clients_input(kept_world: World, transport: str) -> None:
    """Row 135."""
    async with kept_world.daemon() as cri:
        c = await running_in_kept_pod(cri, kept_world, "sh", **SHELL)
        talk = await attach_to(cri, transport, c, stdin=True, stdout=True, stderr=True)
        await talk.send(b"echo -n hello\n")
        await talk.until(b"hello")
        await asyncio.sleep(0.3)
        assert talk.output["stdout"] == b"hello" and talk.output["stderr"] == b""
        if transport == "spdy" or talk.over is not None:
            await talk.end_input()
        assert (await talk.status())["status"] == "Success"
        assert (await cri.ended(c)).exit_code == 0


async def test_several_attach_and_each_sees_what_comes_from_then_on_as_does_the_log(
    kept_world: World, transport: str
) -> None:
    async with kept_world.daemon() as cri:
        script = "while read word; do echo got $word; echo err $word >&2; done"
        c = await running_in_kept_pod(cri, kept_world, "sh", "-c", script, stdin=True)
        first = await attach_to(cri, transport, c, stdin=True, stdout=True, stderr=True)
        await first.send(b"one\n")
        await first.until(b"got one\n")
        second = await attach_to(cri, transport, c, stdin=True, stdout=True)
        await second.send(b"two\n")
        await first.until(b"err two\n", "stderr")
        await second.until(b"got two\n")
        assert second.output["stdout"] == b"got two\n" and second.output["stderr"] == b""
        assert first.output["stdout"] == b"got one\ngot two\n"
        await second.end_input()
        assert (await second.status())["status"] == "Success", "the end of the input detaches"
        first.vanish()
        third = await attach_to(cri, transport, c, stdin=True, stdout=True)
        await third.send(b"three\n")
        await third.until(b"got three\n")
        log = Path((await cri.status(c)).log_path)
        async with asyncio.timeout(20 * PATIENCE):  # a thread writes it
            while "got three" not in log.read_text():
                await asyncio.sleep(0.02)
        lines = [line.split(" ", 3)[3] for line in log.read_text().splitlines() if " stdout " in line]
        assert lines == ["got one", "got two", "got three"]
        await cri("StopContainer", container_id=c, timeout=0)
        assert (await third.status())["status"] == "Success"


async def test_a_terminal_of_a_container_is_attached_to_and_resized(kept_world: World, transport: str) -> None:
    async with kept_world.daemon() as cri:
        c = await running_in_kept_pod(cri, kept_world, "sh", tty=True, stdin=True)
        talk = await attach_to(cri, transport, c, tty=True, stdin=True, stdout=True)
        await talk.resize(101, 41)
        await talk.send(SIZED % b"41 101" + b"stty size; echo err >&2\n")
        assert b"41 101\r\n" in await talk.until(b"err\r\n")
        await talk.send(b"exit\n")
        assert (await talk.status())["status"] == "Success"


async def test_a_slow_client_loses_nothing_and_one_that_stops_reading_is_disconnected(
    world: World, transport: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process_streams, "STALL_S", 3.0)
    async with world.daemon() as cri:
        c = await running(cri, "sh", "-c", "read go; seq 1 1000000; read go; seq 1 2000000; exit 6", stdin=True)
        talk = await attach_to(cri, transport, c, stdin=True, stdout=True)
        talk.reads.clear()
        await talk.send(b"go\n")
        await asyncio.sleep(1)
        talk.reads.set()
        await talk.until(b"\n1000000\n")
        assert bytes(talk.output["stdout"]).split() == [b"%d" % n for n in range(1, 1000001)]
        talk.reads.clear()
        await talk.send(b"go\n")
        assert (await cri.ended(c)).exit_code == 6, "the container goes on without it"
        talk.reads.set()


async def test_a_client_gets_the_reason_why_it_has_to_leave(world: World, transport: str) -> None:
    async with world.daemon() as cri:
        c = await running(cri, "sh", "-c", "while read word; do echo got $word; done", stdin=True)
        pod, _ = cri.node.pods.get_container(c)
        talk = await attach_to(cri, transport, c, stdin=True, stdout=True)
        await pod.gate.dismiss("the pod is about to be suspended")
        status = await talk.status()
        assert status["status"] == "Failure" and "suspended" in status["message"]
        again = await attach_to(cri, transport, c, stdin=True, stdout=True)
        await again.send(b"one\n")
        await again.until(b"got one\n")


async def test_attach_to_a_container_without_input_drops_what_is_sent(world: World, transport: str) -> None:
    async with world.daemon() as cri:
        c = await running(cri, "sh", "-c", "sleep 1; echo done")
        talk = await attach_to(cri, transport, c, stdin=True, stdout=True)
        await talk.send(b"nobody reads this\n")
        assert (await talk.status())["status"] == "Success"
        assert talk.output["stdout"] == b"done\n"


async def test_input_goes_on_after_a_restart_of_the_daemon(world: World, transport: str) -> None:
    async with world.daemon() as cri:
        c = await running(cri, "cat", stdin=True)
        talk = await attach_to(cri, transport, c, stdin=True, stdout=True)
        await talk.send(b"x" * 200_000 + b"\n")
        await talk.until(b"\n")
    async with world.daemon() as cri:
        talk = await attach_to(cri, transport, c, stdin=True, stdout=True)
        await talk.send(b"y" * 200_000 + b"\n")
        assert await talk.until(b"\n") == b"y" * 200_000 + b"\n"
        talk.vanish()
