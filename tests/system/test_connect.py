# SPDX-License-Identifier: Apache-2.0
"""Programs that come and go reach one fake guest through the proxy that the first of them leaves behind."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from stage1.entry import stop
from stage1.errors import NotFound
from stage1.linux.process import start_time
from stage1.rkt import connect, machine
from tests.fakes.guest import FakeGuest
from tests.fakes.patience import PATIENCE

CHECKOUT = Path(__file__).parents[2]
PROGRAM = """import sys, time
from stage1.guest.messages import List
from stage1.rkt import connect
with connect.to_agent(sys.argv[1]) as session:
    session.call(List(), 20)
    print(session.base, flush=True)
    time.sleep(float(sys.argv[2]))
"""

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="the directories of rkt's pods are root's"),
    pytest.mark.timeout(60),
]


class Place:
    """A pod's directory as `run` leaves it, with this process in the launcher's place and a guest without a VM."""

    def __init__(self) -> None:
        self.uuid = str(uuid.uuid4())
        self.path = Path(machine.place(self.uuid))
        (self.path / "tree/layers/apps").mkdir(parents=True)
        (self.path / machine.KEY).write_bytes(os.urandom(16))
        record = {"v": 1, "pid": os.getpid(), "start_time": start_time(os.getpid()), "console": ""}
        (self.path / "vm.json").write_text(json.dumps(record))
        self.guest = FakeGuest(str(self.path / "agent.sock"), str(self.path / "tree")).start()

    def start(self, stays_s: float = 0) -> "subprocess.Popen[str]":
        argv = [sys.executable, "-c", PROGRAM, self.uuid, str(stays_s)]
        return subprocess.Popen(argv, cwd=CHECKOUT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def proxies(self) -> list[int]:
        """Who has the lock open."""
        lock, result = str(self.path / connect.LOCK), []
        for link in Path("/proc").glob("[0-9]*/fd/*"):
            try:
                if os.readlink(link) == lock:
                    result.append(int(link.parts[2]))
            except OSError:
                continue
        return result

    def clean(self) -> None:
        self.guest.stop()
        wait_until(lambda: not self.proxies())
        shutil.rmtree(self.path)


def wait_until(what: Callable[[], object]) -> None:
    until = time.monotonic() + 20 * PATIENCE
    while not what():
        assert time.monotonic() < until
        time.sleep(0.02)


def finish(process: "subprocess.Popen[str]") -> str:
    out, err = process.communicate(timeout=40 * PATIENCE)
    assert process.returncode == 0, err
    return out


@pytest.fixture
def place() -> Iterator[Place]:
    made = Place()
    yield made
    made.clean()


def test_several_at_once_share_one_proxy_which_ends_after_them(place: Place) -> None:
    programs = [place.start(stays_s=0.5) for _ in range(4)]
    bases = {finish(program) for program in programs}
    assert len(bases) == 4
    wait_until(lambda: not place.proxies())
    assert not (place.path / connect.SOCKET).exists()
    assert finish(place.start()) not in bases


def test_a_proxy_keeps_nothing_of_who_started_it(place: Place) -> None:
    program = place.start(stays_s=2)
    assert program.stdout and program.stdout.readline()
    (proxy,) = place.proxies()
    targets = {os.readlink(link) for link in Path(f"/proc/{proxy}/fd").iterdir()}
    assert not any(target.startswith(("pipe:", str(CHECKOUT))) for target in targets)
    assert os.readlink(f"/proc/{proxy}/cwd") == "/" and os.getsid(proxy) != os.getsid(0)
    finish(program)


def test_a_proxy_that_was_killed_is_replaced(place: Place) -> None:
    program = place.start(stays_s=1)
    assert program.stdout and program.stdout.readline()
    for proxy in place.proxies():
        os.kill(proxy, signal.SIGKILL)
    wait_until(lambda: not place.proxies())
    finish(program)
    assert finish(place.start())


def test_a_pod_that_does_not_run_is_said_so() -> None:
    unknown = str(uuid.uuid4())
    with pytest.raises(NotFound, match="does not run"):
        connect.to_agent(unknown)
    with pytest.raises(NotFound, match="was not started"):
        stop.main([unknown])
