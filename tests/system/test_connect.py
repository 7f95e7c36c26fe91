# SPDX-License-Identifier: Apache-2.0
"""Programs that come and go reach one fake guest through the proxy that the first of them leaves behind."""

import contextlib
import json
import os
import select
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
from stage1.guest.proxy import PATIENCE_S as BOOT_S
from stage1.linux.process import start_time
from stage1.rkt import connect, machine
from stage1.vm.vmm import find_unrecorded
from tests.fakes.guest import FakeGuest
from tests.fakes.patience import PATIENCE
from tests.fakes.processes import descriptors

CHECKOUT = Path(__file__).parents[2]
PROGRAM = """import sys, time
from stage1.guest.messages import List
from stage1.rkt import connect
connect.ANSWER_S, connect.SAMPLE_S, connect.proxy.PATIENCE_S = map(float, sys.argv[3:])
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

    guest: FakeGuest | None = None

    def __init__(self) -> None:
        self.uuid = str(uuid.uuid4())
        self.path = Path(machine.place(self.uuid))
        (self.path / "tree/layers/apps").mkdir(parents=True)
        (self.path / machine.KEY).write_bytes(os.urandom(16))
        self.started(os.getpid())

    def started(self, pid: int) -> None:
        record = {"v": 1, "pid": pid, "start_time": start_time(pid), "console": ""}
        (self.path / "vm.json").write_text(json.dumps(record))

    def boot(self) -> None:
        self.guest = FakeGuest(str(self.path / "agent.sock"), str(self.path / "tree")).start()

    def start(
        self, stays_s: float = 0, *, limits: tuple[float, float, float] = (connect.ANSWER_S, connect.SAMPLE_S, 30)
    ) -> "subprocess.Popen[str]":
        """A program that connects; `limits` are for an answer, for a look, and for a boot."""
        argv = [sys.executable, "-c", PROGRAM, self.uuid, *map(str, (stays_s, *limits))]
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

    def kill_proxies(self) -> list[int]:
        """Returns those that were there."""
        result = self.proxies()
        for pid in result:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return result

    def clean(self) -> None:
        if self.guest:
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
    made.boot()
    yield made
    made.clean()


@pytest.fixture
def booting() -> Iterator[Place]:
    """A pod whose agent does not listen yet, and whose VMM, a shell that counts, was just started."""
    made = Place()
    argv = ["qemu-system-x86_64", "-c", "while :; do :; done", f"{made.path}/vm"]
    with subprocess.Popen(argv, executable="/bin/sh") as vmm:
        made.started(vmm.pid)
        wait_until(lambda: find_unrecorded(str(made.path)))  # its arguments are there a moment after its program
        yield made
        vmm.kill()
    wait_until(lambda: not made.kill_proxies())  # one may wait for an agent as long as a test told it to
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
    targets = descriptors(proxy).values()
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


def test_a_pod_that_does_not_run_is_reported_so() -> None:
    unknown = str(uuid.uuid4())
    with pytest.raises(NotFound, match="is not running"):
        connect.to_agent(unknown)
    with pytest.raises(NotFound, match="was not started"):
        stop.main([unknown])


def test_a_vm_that_boots_is_waited_for_as_long_as_it_may_boot(booting: Place) -> None:
    program = booting.start(limits=(0.2, 1, 3))
    assert "did not answer" in program.communicate()[1]
    vmm = find_unrecorded(str(booting.path))
    assert vmm is not None and vmm.age_s() >= 3
    program = booting.start(limits=(0.2, 1, vmm.age_s() + 60))
    wait_until(booting.proxies)
    assert program.stderr
    assert select.select([program.stderr], [], [], 2)[0] == []  # longer than for an answer and a look
    booting.boot()
    assert finish(program)


def test_a_proxy_that_waits_for_the_agent_ends_with_the_vm(booting: Place) -> None:
    program = booting.start(limits=(0.2, 1, 60))
    wait_until(booting.proxies)
    vmm = find_unrecorded(str(booting.path))
    assert vmm is not None
    os.kill(vmm.pid, signal.SIGKILL)
    begun = time.monotonic()
    wait_until(lambda: not booting.proxies())
    assert time.monotonic() - begun < BOOT_S - 5  # it would have waited so long for an agent that boots
    program.kill()
    program.communicate()


def test_a_vm_that_does_not_run_is_not_waited_for(booting: Place) -> None:
    vmm = find_unrecorded(str(booting.path))
    assert vmm is not None
    os.kill(vmm.pid, signal.SIGSTOP)
    program = booting.start(limits=(0.2, 0.5, 1000))
    assert "--force" in program.communicate()[1]
