# SPDX-License-Identifier: Apache-2.0
"""The lab's agent as a process of this machine, its port a socket pair: what clients can rely on."""

import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.lab import protocol

ROOT = Path(__file__).parents[3]
LIMIT_S = 10.0


class Agent:
    """The client's end of an agent's port."""

    def __init__(self) -> None:
        self.link, theirs = socket.socketpair()
        argv = [sys.executable, "-S", "-m", "tests.lab.agent", str(theirs.fileno())]
        self.process = subprocess.Popen(argv, cwd=ROOT, stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()])
        theirs.close()
        self.lines = protocol.Lines()

    def close(self) -> None:
        self.link.close()
        self.process.kill()
        self.process.wait()

    def begin(self, *argv: str, name: str = "1", **more: Any) -> None:
        job = {"argv": list(argv), "cwd": "/", "anywhere": True, "env": {}, "input": False, **more}
        self.send(id=name, **job)

    def send(self, **message: Any) -> None:
        self.link.sendall(protocol.encode(**message))

    def finish(self, name: str = "1") -> tuple[int, bytes, bytes]:
        """Exit code, output, error output of the command `name`; what others say is skipped."""
        output = {"out": b"", "err": b""}
        deadline = time.monotonic() + LIMIT_S
        while True:
            self.link.settimeout(max(0.001, deadline - time.monotonic()))
            for message in self.lines.feed(self.link.recv(65536)):
                if message["id"] != name:
                    continue
                for key in output.keys() & message.keys():
                    output[key] += protocol.data(message, key)
                if "code" in message:
                    return message["code"], output["out"], output["err"]


@pytest.fixture
def agent() -> Iterator[Agent]:
    running = Agent()
    yield running
    running.close()


@pytest.mark.parametrize(
    "argv, code, out, err",
    [
        (["true"], 0, b"", b""),
        (["sh", "-c", "echo a; echo b >&2; exit 3"], 3, b"a\n", b"b\n"),
        (["sh", "-c", "kill -9 $$"], -9, b"", b""),
        (["printf", "no line end \\377"], 0, b"no line end \xff", b""),
        (["pwd"], 0, b"/\n", b""),
        (["cat"], 0, b"", b""),
    ],
)
def test_a_command_ends_with_its_code_and_its_two_outputs(
    agent: Agent, argv: list[str], code: int, out: bytes, err: bytes
) -> None:
    agent.begin(*argv)
    assert agent.finish() == (code, out, err)


@pytest.mark.parametrize(
    "argv, more, code",
    [
        (["no-such-command"], {}, 127),
        (["/etc/passwd"], {}, 126),
        (["true"], {"cwd": "/no/such", "anywhere": False}, 127),
    ],
)
def test_a_command_that_can_not_start_is_reported_and_the_port_stays_usable(
    agent: Agent, argv: list[str], more: dict[str, Any], code: int
) -> None:
    agent.begin(*argv, **more)
    ended, out, err = agent.finish()
    assert (ended, out) == (code, b"")
    assert err.startswith(b"lab: can't run it: ")
    agent.begin("pwd", name="2", cwd="/no/such")
    assert agent.finish("2") == (0, b"/\n", b"")


def test_input_arrives_whole_and_ends(agent: Agent) -> None:
    agent.begin("sh", "-c", "sleep 0.2; wc -c", input=True)
    for _ in range(40):
        agent.send(**{"id": "1", "in": b"x" * 30_000})
    agent.send(id="1", end=True)
    assert agent.finish() == (0, b"1200000\n", b"")


def test_input_without_reader_is_harmless(agent: Agent) -> None:
    agent.begin("sh", "-c", "exec <&-; sleep 0.2; exit 5", input=True)
    agent.send(**{"id": "1", "in": b"x" * 200_000})
    assert agent.finish()[0] == 5


def test_output_waits_for_a_slow_client_and_loses_nothing(agent: Agent) -> None:
    agent.begin("head", "-c", "3000000", "/dev/zero")
    time.sleep(0.3)
    code, out, _ = agent.finish()
    assert (code, len(out)) == (0, 3_000_000)


def test_a_daemon_that_keeps_the_pipes_does_not_hold_the_client(agent: Agent) -> None:
    agent.begin("sh", "-c", "setsid sleep 60 & echo $!")
    code, out, _ = agent.finish()
    os.kill(int(out), signal.SIGKILL)  # still there
    assert code == 0


def _ends(pid: int) -> bool:
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([fd], [], [], LIMIT_S)[0])
    finally:
        os.close(fd)


def _pid_of(agent: Agent) -> int:
    agent.begin("sh", "-c", "echo $$; exec sleep 60")
    agent.link.settimeout(LIMIT_S)
    while True:
        for message in agent.lines.feed(agent.link.recv(65536)):
            return int(protocol.data(message, "out"))


def test_a_command_dies_with_its_client(agent: Agent) -> None:
    pid = _pid_of(agent)
    agent.link.shutdown(socket.SHUT_RDWR)
    assert _ends(pid)


def test_a_new_request_on_the_port_ends_the_command_of_the_former_client(agent: Agent) -> None:
    pid = _pid_of(agent)
    agent.link.sendall(b'{"id": "1", "in": "aGF')  # what it was about to say
    agent.begin("echo", "next", name="2")
    assert agent.finish("2") == (0, b"next\n", b"")
    assert _ends(pid)


def test_a_running_command_beats(agent: Agent) -> None:
    agent.begin("sleep", "0.5")
    agent.link.settimeout(LIMIT_S)
    messages: list[dict[str, Any]] = []
    while not messages:
        messages = agent.lines.feed(agent.link.recv(65536))
    assert messages[0] == {"id": "1", "beat": True}
