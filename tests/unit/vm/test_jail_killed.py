# SPDX-License-Identifier: Apache-2.0
"""Who starts a VMM, or the jailer itself, is killed at each moment: a VMM that runs is left, or nothing at all."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from stage1.errors import VmFailed
from stage1.vm import qemu
from stage1.vm.spec import SerialLink, VmSpec
from stage1.vm.starter import ProcessVmm
from tests.fakes.patience import PATIENCE
from tests.fakes.processes import children

pytestmark = pytest.mark.slow  # a process after the other, until one was killed at each moment

STEP_S, GROWTH = 0.0003, 1.2
ENOUGH = 2
"""Started so often in a row, a VMM runs by that time, and there is no later moment to try."""
MOST = 120
STARTER = """
import os, sys, time
from stage1.linux.idmap import Extent
from stage1.vm import qemu
from stage1.vm.spec import *
from stage1.vm.starter import ProcessVmm
vm = {vm!r}._replace(hypervisor=qemu.HYPERVISOR)
for line in sys.stdin:
    pid = os.fork()
    if pid == 0:
        ProcessVmm(watch_s=0, ends_with_us=line == "with\\n").start(vm)
        time.sleep(60)
    print(pid, flush=True)
    os.waitpid(pid, 0)
    print("ended", flush=True)
"""


@pytest.fixture
def vm(tmp_path: Path, jailer: str) -> VmSpec:
    binary = tmp_path / "qemu"
    binary.write_text("#!/bin/sh\nexec </dev/null\nwhile :; do sleep 60; done\n")
    binary.chmod(0o755)
    vm = VmSpec("n", qemu.HYPERVISOR, str(binary), str(tmp_path), "/k", "/i", "/s", 64, 1, SerialLink(""))
    return vm._replace(jailer=jailer)


@pytest.fixture
def starter(vm: VmSpec) -> Iterator["subprocess.Popen[str]"]:
    """Starts a VM for each line that it reads, in a process whose pid it says; and says when that has ended."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    text = STARTER.format(vm=vm._replace(hypervisor=None))  # type: ignore[arg-type]
    argv = [sys.executable, "-c", text]
    with subprocess.Popen(argv, text=True, env={"PYTHONPATH": os.getcwd()}, **pipes) as process:  # type: ignore[call-overload]
        yield process
        process.stdin.close()


def of(vm: VmSpec) -> dict[int, str]:
    """Processes that have to do with the VM, but for those that have ended: their pids and first words."""
    result = {}
    for name in os.listdir("/proc"):
        try:
            cmdline = Path("/proc", name, "cmdline").read_text().split("\0") if name.isdigit() else [""]
        except OSError:
            continue
        if any(vm.run_dir == word or word.startswith(f"{vm.run_dir}/") for word in cmdline[1:]):
            result[int(name)] = os.path.basename(cmdline[0])
    return result


def settled(vm: VmSpec) -> dict[int, str]:
    """What is left when no jailer is there any more. A VMM of them is ended."""
    deadline = time.monotonic() + 20 * PATIENCE
    while "jailer" in (left := of(vm)).values():
        assert time.monotonic() < deadline, left
    for pid in left:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:  # a child that the script was just making: it went with the first
            continue
    while of(vm):  # a killed one that is not gone yet would count as the next one
        assert time.monotonic() < deadline, of(vm)
    return left


def wait(seconds: float) -> None:
    """Exactly: no sleep is as short."""
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass


@pytest.mark.parametrize("kind", ["with", "without"])
def test_the_process_that_starts_it_is_killed(vm: VmSpec, starter: "subprocess.Popen[str]", kind: str) -> None:
    assert starter.stdin is not None and starter.stdout is not None
    started = step = 0
    while started < ENOUGH and step < MOST:
        starter.stdin.write(f"{kind}\n")
        starter.stdin.flush()
        pid = int(starter.stdout.readline())
        wait(STEP_S * GROWTH**step)
        runs = "sh" in of(vm).values()
        os.kill(pid, signal.SIGKILL)
        assert starter.stdout.readline() == "ended\n"
        if kind == "with":
            deadline = time.monotonic() + 20 * PATIENCE
            while left := of(vm):
                assert time.monotonic() < deadline, left
        else:
            left = settled(vm)
            assert set(left.values()) <= {"sh"} and (left or not runs)
        started, step = started + 1 if runs else 0, step + 1
    assert ENOUGH <= step < MOST


def jailers() -> list[int]:
    """Of our children."""
    result = []
    for pid in children():
        try:
            place = Path("/proc", str(pid))
            # One that has ended, whose starter was killed, is ours to reap, and has no command line any more.
            if (place / "comm").read_text() == "jailer\n" and (place / "cmdline").read_bytes():
                result.append(pid)
        except OSError:
            continue
    return sorted(result)


def test_the_jailer_is_killed_while_it_waits(vm: VmSpec) -> None:
    fifo = f"{vm.run_dir}/netns"
    os.mkfifo(fifo)  # to open it takes until somebody writes
    with ThreadPoolExecutor(1) as pool:
        starting = pool.submit(ProcessVmm(watch_s=0).start, vm._replace(netns=fifo))
        while not (result := jailers()):
            assert not starting.done()
        os.kill(result[0], signal.SIGKILL)
        assert isinstance(starting.exception(), VmFailed)
    assert not of(vm)


def test_its_child_is_killed_when_it_can_be_seen(vm: VmSpec) -> None:
    """The second of our children; on a busy machine it is often the VMM by then."""
    with ThreadPoolExecutor(1) as pool:
        for step in range(40):
            starting = pool.submit(ProcessVmm(watch_s=0.05).start, vm)
            while len(result := jailers()) < 2 and not starting.done():
                pass
            wait(step * STEP_S / 4)
            for pid in result[1:]:
                end(pid)
            _finish(starting.exception(), vm)
            assert not of(vm)


def end(pid: int) -> None:
    """Kill it, if it still is the jailer and not the VMM."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    if pid in jailers():
        signal.pidfd_send_signal(fd, signal.SIGKILL)
    os.close(fd)


def _finish(error: BaseException | None, vm: VmSpec) -> None:
    assert error is None or isinstance(error, VmFailed)
    for pid in of(vm):
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
