# SPDX-License-Identifier: Apache-2.0
"""Several programs talk to one fake guest through the proxy: none sees what is another's, and what one starts ends
with it.
"""

import json
import os
import select
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from stage1.errors import NotFound, TimedOut, VmFailed
from stage1.guest import frame, proxy
from stage1.guest import messages as m
from stage1.guest.client import Client, exit_of
from stage1.guest.connect import unix_factory
from stage1.guest.link import EventSeen
from tests.fakes.guest import FakeGuest, Faults
from tests.fakes.patience import PATIENCE

KEY = os.urandom(16)


class Place:
    """The fake guest, the proxy in a thread, and clients."""

    def __init__(self, directory: Path, faults: Faults) -> None:
        (directory / "containers/c").mkdir(parents=True)
        self.directory = directory
        self.guest = FakeGuest(str(directory / "agent.sock"), str(directory), faults).start()
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(directory / "broker.sock"))
        listener.listen(4)
        self._listener = listener
        self.proxy_ = proxy.Proxy(listener, unix_factory(str(directory / "agent.sock")), key=KEY)
        self.thread = threading.Thread(target=self.proxy_.serve, daemon=True)
        self.thread.start()

    def client(self) -> Client:
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(str(self.directory / "broker.sock"))
        return Client(sock)

    def start_container(self, client: Client, argv: list[str]) -> None:
        document = {"process": {"args": argv, "env": ["PATH=/usr/bin:/bin"]}}
        (self.directory / "containers/c/config.json").write_text(json.dumps(document))
        client.call(m.Create("c", "image", tmpfs=True), 10)
        client.call(m.Start("c"), 10)

    def exec(self, client: Client, argv: list[str]) -> m.Stdio:
        number = client.base
        name = f"exec-{number}.json"
        document = {"args": argv, "env": ["PATH=/usr/bin:/bin"]}
        (self.directory / "containers/c" / name).write_text(json.dumps(document))
        stdio = m.Stdio(number, number + 1, number + 2)
        client.call(m.Exec("c", number, name, stdio), 10)
        return stdio

    def close(self) -> None:
        self.guest.stop()
        self.thread.join(10 * PATIENCE)
        self._listener.close()


@pytest.fixture
def faults() -> Faults:
    return Faults()


@pytest.fixture
def place(tmp_path: Path, faults: Faults) -> Iterator[Place]:
    made = Place(tmp_path, faults)
    yield made
    made.close()


def read_all(client: Client, give: bytes = b"", stdio: m.Stdio = m.Stdio()) -> tuple[bytes, int]:  # noqa: B008
    """Give the input, and read output until the exec ends."""
    output, until = b"", time.monotonic() + 30
    while time.monotonic() < until:
        sent = client.flush()
        if sent and stdio.stdin and give is not None:
            piece, give = give[:10000], give[10000:] or None  # type: ignore[assignment]
            client.send(frame.DATA, piece, stream=stdio.stdin, end=give is None)
        poll = select.poll()
        poll.register(client.fileno(), select.POLLIN | (0 if sent else select.POLLOUT))
        poll.poll(50)
        for one in client.pump():
            if one.kind == frame.DATA:
                output += one.payload
            elif (ended := exit_of(one)) is not None:
                return output, ended.exit_code
    raise AssertionError("the exec did not end")


def test_each_program_gets_its_own_answers_and_output(place: Place) -> None:
    with place.client() as one, place.client() as two:
        place.start_container(one, ["sleep", "60"])
        assert one.base != two.base
        first = place.exec(one, ["sh", "-c", "echo one; exit 3"])
        second = place.exec(two, ["sh", "-c", "echo two; exit 4"])
        with pytest.raises(NotFound, match="nowhere"):
            two.call(m.Delete("nowhere"), 10)
        assert read_all(two, stdio=second._replace(stdin=0)) == (b"two\n", 4)
        assert read_all(one, stdio=first._replace(stdin=0)) == (b"one\n", 3)
        assert [result.id for result in two.call(m.List(), 10).containers] == ["c"]


def test_much_goes_through_in_both_directions(place: Place) -> None:
    much = os.urandom(700_000)
    with place.client() as client:
        place.start_container(client, ["sleep", "60"])
        stdio = place.exec(client, ["cat"])
        assert read_all(client, much, stdio) == (much, 0)


def test_what_a_program_started_ends_with_it(place: Place) -> None:
    with place.client() as stays:
        place.start_container(stays, ["sleep", "60"])
        with place.client() as goes:
            number = goes.base
            place.exec(goes, ["sleep", "60"])
        until = time.monotonic() + 10
        expected = m.Signal("c", number, 9, all=True)
        while expected not in place.guest.asked:
            assert time.monotonic() < until
            time.sleep(0.01)
        assert stays.call(m.List(), 10).code == m.OK


def test_who_follows_and_does_not_read_costs_no_memory_and_is_waited_for_only_while_it_is_there(place: Place) -> None:
    with place.client() as reads, place.client() as stalls:
        document = {"process": {"args": ["sh", "-c", "exec yes"], "env": ["PATH=/usr/bin:/bin"]}}
        (place.directory / "containers/c/config.json").write_text(json.dumps(document))
        stream = 1 << 31
        stdio = m.Stdio(0, stream, stream + 1)
        reads.call(m.Create("c", "image", tmpfs=True, stdio=stdio), 10)
        for one in (reads, stalls):
            one.follow(stream)
            one.call(m.List(), 10)
        reads.call(m.Start("c"), 10)
        got, until = 0, time.monotonic() + 2
        while time.monotonic() < until:
            got += received(reads)
            assert max(len(one.out) for one in [*place.proxy_._clients.values()]) < 1 << 20
        assert got > 0
        stalls.__exit__()
        got, until = 0, time.monotonic() + 20 * PATIENCE
        while got < 2_000_000:
            got += received(reads)
            assert time.monotonic() < until, got


def received(client: Client) -> int:
    """How many bytes of data have come within a tenth of a second."""
    poll = select.poll()
    poll.register(client.fileno(), select.POLLIN)
    poll.poll(100)
    return sum(len(one.payload) for one in client.pump() if one.kind == frame.DATA)


def test_of_an_exec_one_end_is_passed_on_and_of_others_none(tmp_path: Path) -> None:
    ours, theirs = socket.socketpair()
    with socket.socket(socket.AF_UNIX) as listener, ours, theirs:
        listener.bind(str(tmp_path / "s"))
        made = proxy.Proxy(listener, lambda until: None, key=KEY)
        client = made._clients[ours.fileno()] = proxy._Client(ours, 64)
        client.running.add(proxy._Running("c", 65))
        before = len(client.out)
        for seq in range(1, 100):
            made._on_item(EventSeen(m.Exited("other", 65, 4), seq))
            made._on_item(EventSeen(m.Exited("c", 66, 4), seq))
        assert len(client.out) == before
        made._on_item(EventSeen(m.Exited("c", 65, 4), 100))
        once = len(client.out)
        for seq in range(101, 200):
            made._on_item(EventSeen(m.Exited("c", 65, 4), seq))
        assert before < len(client.out) == once


def test_the_proxy_ends_soon_after_its_last_client(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    with place.client() as client:
        client.call(m.List(), 10)
        time.sleep(0.2)
        assert place.thread.is_alive()
    place.thread.join(proxy.LINGER_S + 5)
    assert not place.thread.is_alive()


def test_a_cut_of_the_link_is_not_noticed(place: Place) -> None:
    with place.client() as client:
        place.start_container(client, ["sleep", "60"])
        place.guest.cut()
        assert [result.id for result in client.call(m.List(), 10).containers] == ["c"]


def test_the_end_of_the_guest_is_the_end_of_the_conversation(place: Place) -> None:
    with place.client() as client:
        client.call(m.List(), 10)
        place.guest.stop()
        with pytest.raises(VmFailed, match="ended"):
            client.call(m.List(), 10)


def test_an_agent_that_does_not_answer_is_waited_for_no_longer_than_asked(place: Place, faults: Faults) -> None:
    faults.silent = True
    with place.client() as client, pytest.raises(TimedOut, match="List within"):
        client.call(m.List(), 0.2)


def test_calls_of_one_connection_share_its_time_limit(place: Place, faults: Faults) -> None:
    faults.silent = True
    with place.client() as client:
        client.limit(0.4)
        begun = time.monotonic()
        for _ in range(3):
            with pytest.raises(TimedOut, match="List within"):
                client.call(m.List(), 30)
        assert time.monotonic() - begun < 5 * PATIENCE


def test_a_proxy_that_does_not_accept_is_waited_for_no_longer_than_asked(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as sock:
        listener.bind(str(tmp_path / "s"))
        listener.listen(1)
        sock.connect(str(tmp_path / "s"))
        with pytest.raises(TimedOut):
            Client(sock, until=time.monotonic() + 0.1)


@pytest.mark.parametrize("noise", [b"\xff" * 40, frame.pack(frame.REQUEST, b"\x0a", stream=1), frame.pack(frame.ACK)])
def test_a_client_that_sends_nonsense_is_hung_up_on(place: Place, noise: bytes) -> None:
    with place.client() as client, socket.socket(socket.AF_UNIX) as other:
        other.connect(str(place.directory / "broker.sock"))
        other.sendall(noise)
        other.settimeout(10)
        while other.recv(100):
            continue
        assert client.call(m.List(), 10).code == m.OK


def test_frames_are_cut_wherever_they_break() -> None:
    whole = frame.pack(frame.DATA, b"abc", stream=5, flags=frame.END) + frame.pack(frame.REPLY, b"", stream=6)
    for at in range(len(whole) + 1):
        buffer, result = bytearray(whole[:at]), []
        for rest in (whole[at:], b""):
            while (one := frame.cut(buffer)) is not None:
                result.append(one)
            buffer += rest
        assert [(one.kind, one.stream, one.payload) for one in result] == [
            (frame.DATA, 5, b"abc"), (frame.REPLY, 6, b"")
        ]  # fmt: skip
