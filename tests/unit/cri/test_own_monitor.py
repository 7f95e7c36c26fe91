# SPDX-License-Identifier: Apache-2.0
"""QEMU's socket of a pod with a kernel of its own, played by a server: which of its messages are read, and how many."""

import asyncio
import contextlib
import json
import socket
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from cri.live.own_kernel import Monitor
from tests.fakes.patience import PATIENCE

ORDERLY: dict[str, Any] = {"event": "SHUTDOWN", "data": {"guest": True, "reason": "guest-shutdown"}}
FLOOD = {"event": "ACPI_DEVICE_OST", "data": {"info": {"source": 0, "status": 1, "slot": "0", "slot-type": "CPU"}}}


class Played:
    """A server that sends `messages` while there are any; `told` is what it received."""

    def __init__(self, path: str, messages: Callable[[], list[bytes]]) -> None:
        self.told: list[str] = []
        self._messages, self._listener = messages, socket.socket(socket.AF_UNIX)
        self._listener.bind(path)
        self._listener.listen(1)
        self._threads = [threading.Thread(target=self._serve, daemon=True)]
        self._threads[0].start()

    def _serve(self) -> None:
        peer, _ = self._listener.accept()
        self._threads.append(threading.Thread(target=self._say, args=(peer,), daemon=True))
        self._threads[-1].start()
        self._listener.close()
        with peer, peer.makefile("rb") as lines, contextlib.suppress(OSError):
            for line in lines:
                self.told.append(json.loads(line)["execute"])

    def _say(self, peer: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while given := self._messages():
                peer.sendall(b"".join(given))

    async def hung_up(self) -> None:
        """Return when the other side has hung up."""
        for one in self._threads:
            await asyncio.to_thread(one.join, 10 * PATIENCE)
            assert not one.is_alive()


@asynccontextmanager
async def played(place: Path, messages: Callable[[], list[bytes]]) -> AsyncIterator[tuple[Monitor, Played]]:
    """A monitor that is open, of a QEMU that says so."""
    qemu, monitor = Played(f"{place}/monitor.sock", messages), Monitor(f"{place}/monitor.sock")
    assert await monitor.open()
    try:
        yield monitor, qemu
    finally:
        await monitor.close()
        await qemu.hung_up()


def once(*messages: bytes) -> Callable[[], list[bytes]]:
    left = [list(messages)]
    return lambda: left.pop() if left else []


async def test_the_event_of_its_end_is_read(tmp_path: Path) -> None:
    messages = [json.dumps(one).encode() + b"\r\n" for one in ({"QMP": {}}, {"return": {}}, {"event": "STOP"}, ORDERLY)]
    async with played(tmp_path, once(b"[" * 30_000 + b"\n", b"nonsense\n", b"[1]\n", *messages)) as (monitor, qemu):
        async with asyncio.timeout(5 * PATIENCE):
            while monitor.reason != "guest-shutdown":
                await asyncio.sleep(0.01)
        monitor.power_down()
        await monitor.close()
        await qemu.hung_up()
    assert qemu.told == ["qmp_capabilities", "cont", "system_powerdown"] and not monitor.is_cut


@pytest.mark.parametrize(
    ("reason", "heard"),
    [
        ("guest-reset", "guest-reset"),
        ("guest-panic", "guest-panic"),
        ("host-signal", ""),
        (7, ""),
        (["x"], ""),
        (None, ""),
    ],
)
async def test_only_what_the_guest_did_is_a_reason(tmp_path: Path, reason: object, heard: str) -> None:
    line = json.dumps({"event": "SHUTDOWN", "data": {"guest": True, "reason": reason}}).encode() + b"\n"
    async with played(tmp_path, once(line)) as (monitor, _):
        await monitor.ended(1)
        assert monitor.reason == heard


async def test_a_panic_counts_though_a_reset_follows(tmp_path: Path) -> None:
    reset = {"event": "SHUTDOWN", "data": {"guest": True, "reason": "guest-reset"}}
    messages = [json.dumps(one).encode() + b"\n" for one in ({"event": "GUEST_PANICKED", "data": {}}, reset)]
    async with played(tmp_path, once(*messages)) as (monitor, _):
        await monitor.ended(1)
        assert monitor.reason == "guest-panic"


@pytest.mark.timeout(60)
@pytest.mark.parametrize("word", [json.dumps(FLOOD).encode() + b"\r\n", b"\n", b"x" * 200_000], ids=len)
async def test_who_does_not_end_is_cut_off(tmp_path: Path, word: bytes) -> None:
    """Each event is work for the loop that serves all pods; and QEMU keeps what nobody reads, in the guest's place."""
    async with played(tmp_path, lambda: [word] * (1 + 4096 // len(word))) as (monitor, qemu):
        await monitor.ended(10 * PATIENCE)
        assert monitor.is_cut
        await qemu.hung_up()
        monitor.power_down()
    assert qemu.told == ["qmp_capabilities", "cont"]


async def test_a_monitor_that_sends_little_for_long_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cri.live.own_kernel.BYTES_PER_S", 1 << 30)
    line = b"{}" + b" " * 1000 + b"\n"
    async with played(tmp_path, once(*[line] * 500, json.dumps(ORDERLY).encode() + b"\n")) as (monitor, _):
        await monitor.ended(1)
        assert monitor.reason == "guest-shutdown" and not monitor.is_cut
