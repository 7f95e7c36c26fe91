# SPDX-License-Identifier: Apache-2.0
"""A VMM that is held, with a process of this machine in its place."""

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from stage1.errors import KernelError
from stage1.linux.process import start_time
from stage1.vm import hold
from stage1.vm.vmm import VmProcess
from tests.fakes.patience import PATIENCE


@pytest.fixture
def vm(tmp_path: Path) -> Iterator[VmProcess]:
    with subprocess.Popen(["sleep", "1000"]) as process:
        yield VmProcess(process.pid, start_time(process.pid), f"{tmp_path}/console.log")
        process.kill()


def _is_stopped(vm: VmProcess, expected: bool) -> bool:
    """Whether it becomes so, for a signal takes effect when the process runs next."""
    until = time.monotonic() + 5 * PATIENCE
    while (Path(f"/proc/{vm.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T") != expected:
        if time.monotonic() > until:
            return not expected
        time.sleep(0.001)
    return expected


def test_it_is_held_and_released_and_a_later_daemon_knows(vm: VmProcess, tmp_path: Path) -> None:
    directory = str(tmp_path)
    assert not hold.is_held(directory)
    for _ in range(2):
        hold.hold(vm, directory)
        assert (_is_stopped(vm, True), hold.is_held(directory)) == (True, True)
    for _ in range(2):
        hold.go_on(vm, directory)
        assert (_is_stopped(vm, False), hold.is_held(directory)) == (False, False)


def test_it_can_be_killed_while_it_is_held(vm: VmProcess, tmp_path: Path) -> None:
    hold.hold(vm, str(tmp_path))
    vm.kill()
    hold.hold(vm, str(tmp_path))
    hold.go_on(vm, str(tmp_path))
    assert not vm.alive()


def test_it_runs_on_when_that_can_not_be_written_down(vm: VmProcess, tmp_path: Path) -> None:
    with pytest.raises(KernelError):
        hold.hold(vm, f"{tmp_path}/absent")
    assert not _is_stopped(vm, False)
    hold.go_on(vm, f"{tmp_path}/absent")
