# SPDX-License-Identifier: Apache-2.0
"""QEMU's monitor, played by a thread: what is asked, and what becomes of answers that are none."""

import json
import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stage1.errors import VmFailed
from stage1.vm.monitor import Monitor
from tests.fakes.patience import PATIENCE

COMPLETED = {"event": "MIGRATION", "data": {"status": "completed"}}
Reply = Callable[[str], list[Any]]


class Qemu:
    """Answers each command by `reply`, and keeps what it was asked; bytes are sent as they are, None closes."""

    def __init__(self, reply: Reply) -> None:
        self.ours, self._theirs = socket.socketpair()
        self.asked: list[str] = []
        self.written: list[bytes] = []
        self._reply = reply
        self._thread = threading.Thread(target=self._serve_until_closed, daemon=True)
        self._thread.start()

    def _serve_until_closed(self) -> None:
        try:
            self._serve()
        except OSError:  # nobody listens any more
            pass

    def _serve(self) -> None:
        text, files = b"", []
        with self._theirs as sock:
            while True:
                data, descriptors, _, _ = socket.recv_fds(sock, 65536, 4)
                files += descriptors
                text += data
                if not data:
                    return
                *lines, text = text.split(b"\n")
                for line in lines:
                    name = json.loads(line)["execute"]
                    self.asked.append(name)
                    if name == "migrate":
                        os.write(files[0], b"devices")
                    for one in self._reply(name):
                        if one is None:
                            return
                        sock.sendall(one if isinstance(one, bytes) else json.dumps(one).encode() + b"\r\n")

    def ended(self) -> None:
        self._thread.join(10 * PATIENCE)


def usual(name: str) -> list[Any]:
    done = [{"event": "STOP"}, {"return": {}}]
    return [*done, COMPLETED] if name in ("migrate", "migrate-incoming") else done


def test_a_guest_is_saved_into_a_file_of_ours_and_ended(tmp_path: Path) -> None:
    qemu = Qemu(usual)
    with (tmp_path / "state").open("wb") as state, Monitor(qemu.ours.detach()) as monitor:
        monitor.save(state.fileno())
        monitor.quit()
    qemu.ended()
    assert qemu.asked == ["qmp_capabilities", "migrate-set-capabilities", "add-fd", "migrate", "quit"]
    assert (tmp_path / "state").read_bytes() == b"devices"


def test_a_guest_is_loaded() -> None:
    qemu = Qemu(usual)
    with Monitor(qemu.ours.detach()) as monitor:
        monitor.load()
    qemu.ended()
    assert qemu.asked == ["qmp_capabilities", "migrate-set-capabilities", "migrate-incoming"]


@pytest.mark.parametrize(
    ("last", "noun"),
    [
        ([{"error": {"class": "GenericError", "desc": "no such descriptor"}}], "no such descriptor"),
        ([{"return": {}}, {"event": "MIGRATION", "data": {"status": "failed"}}], "state"),
        ([{"return": {}}, None], "closed"),
        ([None], "closed"),
        ([b"nonsense\n"], "JSON"),
        ([b"[1]\n"], "JSON"),
        ([b"[" * 100_000 + b"\n"], "JSON"),
        ([{"error": 5}], "5"),
        ([b"x" * (2 << 20)], "too much"),
        ([b"{}\n" * (1 << 19)], "too much"),
        ([{"return": {}}, {"event": "MIGRATION", "data": 7}], "in time"),
        ([], "in time"),
    ],
    ids=(
        "refused failed closed closed-before garbage array nested odd-error long-line many-lines odd-event silence"
    ).split(),
)
def test_a_failed_load_is_reported_with_the_reason(last: list[Any], noun: str) -> None:
    qemu = Qemu(lambda name: last if name == "migrate-incoming" else usual(name))
    limit_s = 0.3 if noun == "in time" else 30
    with Monitor(qemu.ours.detach(), limit_s=limit_s) as monitor, pytest.raises(VmFailed, match=noun):
        monitor.load()


def test_a_vmm_that_has_ended_takes_no_commands() -> None:
    ours, theirs = socket.socketpair()
    theirs.close()
    with Monitor(ours.detach()) as monitor, pytest.raises(VmFailed):
        monitor.load()


NUMBERS: list[Any] = ["7", 1.5, float("inf"), True, -1, 1 << 64, None, [], {}]


@pytest.mark.parametrize("reply", [*({"fdset-id": number} for number in NUMBERS), [], 7, None, "x"])
def test_a_descriptor_has_a_number_or_there_is_an_error(reply: Any, tmp_path: Path) -> None:
    qemu = Qemu(lambda name: [{"return": reply}])
    with (
        Monitor(qemu.ours.detach()) as monitor,
        (tmp_path / "file").open("wb") as file,
        pytest.raises(VmFailed, match="number"),
    ):
        monitor.add_file(file.fileno(), "word")


@pytest.mark.parametrize("value", [b"[]", b"{}", b"0", b"[0]"])
def test_an_answer_of_many_small_values_is_not_made_into_them(value: bytes) -> None:
    """A list of empty lists takes twenty times its text; each pod's VMM may say one."""
    text = b'{"return": [' + b",".join([value] * 300_000) + b"]}\n"
    qemu = Qemu(lambda name: [text])
    with Monitor(qemu.ours.detach(), most_bytes=1 << 22) as monitor, pytest.raises(VmFailed, match="too much"):
        monitor.run("query-fdsets")


def test_an_answer_about_many_descriptors_is_read() -> None:
    sets = [{"fds": [{"fd": one, "opaque": f"{one} 4096"}], "fdset-id": one} for one in range(16_000)]
    qemu = Qemu(lambda name: [{"return": sets}])
    with Monitor(qemu.ours.detach(), most_bytes=1 << 22) as monitor:
        assert monitor.run("query-fdsets") == sets
