# SPDX-License-Identifier: Apache-2.0
"""The daemon's end of a link whose guest takes nothing, and then goes on; is slow; lies."""

import asyncio
from pathlib import Path

import pytest

from cri.agent import UNTAKEN_BYTES, Agent, Identity
from stage1.errors import AgentFailed, PodError, VmFailed
from stage1.guest import messages as m
from stage1.guest.frame import RING
from stage1.guest.link import MAX_WAITING
from stage1.vm.spec import SerialLink
from tests.fakes.guest_link import Asked, GuestLink
from tests.fakes.patience import PATIENCE

KEY = bytes(range(16))


class Guest:
    """Answers everything, as long as `takes` is set."""

    def __init__(self) -> None:
        self.link = GuestLink(m.Hello(boot_id=1))
        self.takes = asyncio.Event()
        self.takes.set()
        self.has_met = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.link.connected()
        while await self.takes.wait() and (data := await reader.read(65536)):
            for item in self.link.receive(data):
                if isinstance(item, Asked):
                    self.link.reply(item.id, m.Reply(pid=7))
            writer.write(self.link.outgoing())
            self.has_met.set()
        writer.close()


async def test_what_a_guest_does_not_take_waits_within_limits_and_goes_out_when_it_does(tmp_path: Path) -> None:
    guest, path = Guest(), str(tmp_path / "link")
    server = await asyncio.start_unix_server(guest.serve, path, limit=1024)
    agent = Agent(Identity("pod x/y", SerialLink(path), KEY, 5), lambda event: True)
    await agent.open()
    assert (await agent.call(m.List(), timeout_s=5)).pid == 7
    guest.takes.clear()
    big = m.Tune("memory.high", "x" * 20_000)
    calls = [asyncio.ensure_future(agent.call(big, timeout_s=60)) for _ in range(MAX_WAITING + 10)]
    with pytest.raises(AgentFailed, match=r"pod x/y: .*agent"):
        await asyncio.gather(*calls)
    assert agent._writer is not None
    assert agent._writer.transport.get_write_buffer_size() < UNTAKEN_BYTES + 2 * RING
    assert agent._link._sent.size < 3 * RING
    guest.takes.set()
    answers = await asyncio.gather(*calls, return_exceptions=True)
    assert {type(answer) for answer in answers} == {m.Reply, AgentFailed}
    assert (await agent.call(m.List(), timeout_s=5)).pid == 7
    await agent.close()
    server.close()


async def test_a_guest_that_is_slow_to_answer_is_met(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cri.agent.GREETING_S", 0.2)
    guest, path = Guest(), str(tmp_path / "link")

    async def late(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        data = await reader.read(65536)
        await asyncio.sleep(0.6)
        ready = asyncio.StreamReader()
        ready.feed_data(data)
        ready.feed_eof()
        await guest.serve(ready, writer)

    server = await asyncio.start_unix_server(late, path)
    agent = Agent(Identity("pod x/y", SerialLink(path), KEY, 5), lambda event: True)
    async with asyncio.timeout(20 * PATIENCE):
        assert (await agent.open()).boot_id == 1
    await agent.close()
    server.close()


async def test_a_guest_that_lies_is_cut_off(tmp_path: Path) -> None:
    guest, path, reasons = Guest(), str(tmp_path / "link"), list[str]()
    server = await asyncio.start_unix_server(guest.serve, path)
    agent = Agent(Identity("pod x/y", SerialLink(path), KEY, 5), lambda event: True, broken=reasons.append)
    await agent.open()
    guest.link.event(m.Exited("c", unix_ns=2**64 - 1))
    with pytest.raises(PodError, match=r"Exited\.unix_ns"):
        await agent.call(m.List(), timeout_s=5)
    assert len(reasons) == 1
    assert "Exited.unix_ns is 18446744073709551615" in reasons[0]
    with pytest.raises(PodError, match="was cut"):
        await agent.call(m.List(), timeout_s=5)
    await agent.close()
    server.close()


async def test_requests_to_a_vm_that_has_just_ended_fail_with_that_reason(tmp_path: Path) -> None:
    guest, path = Guest(), str(tmp_path / "link")
    server = await asyncio.start_unix_server(guest.serve, path)
    agent = Agent(Identity("pod x/y", SerialLink(path), KEY, 5), lambda event: True)
    await agent.open()
    await agent.drain(0.01)
    with pytest.raises(VmFailed, match=r"pod x/y has ended"):
        await agent.call(m.List(), timeout_s=5)
    await agent.close()
    server.close()
