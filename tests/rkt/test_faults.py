# SPDX-License-Identifier: Apache-2.0
"""Pods of rkt's that are killed at any moment, asked for two things at once, or have nowhere to write."""

import os
import subprocess
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from stage1.rkt import machine
from stage1.vm import vmm
from tests.fakes.patience import PATIENCE
from tests.fakes.processes import descriptors
from tests.rkt.conftest import RUN, Rig, wait_until
from tests.rkt.real import processes_of
from tests.rkt.stage0 import Done, Pod

pytestmark = [
    pytest.mark.vm,
    pytest.mark.timeout(300),
    pytest.mark.skipif(os.geteuid() != 0, reason="rkt mounts overlays, so its fake needs root"),
]
WAITS = "trap 'exit 4' TERM; echo up; while :; do sleep 0.1; done"


def check_gone(pod: Pod) -> None:
    """It has ended, and gc leaves nothing."""
    wait_until(lambda: pod.state() == "exited", limit_s=3)
    wait_until(lambda: vmm.find_unrecorded(machine.place(pod.uuid)) is None, limit_s=3)
    done = pod.gc()
    assert done.code == 0 and not done.stderr, done
    assert not (RUN / pod.uuid).exists()
    wait_until(lambda: processes_of(pod.uuid) == [], limit_s=3)  # a proxy is not of the pod's own Python here
    assert pod.uuid not in Path("/proc/self/mountinfo").read_text()


@pytest.mark.parametrize("overlay", [True, False])
def test_a_launcher_may_be_killed_at_any_moment(rig: Rig, *, overlay: bool) -> None:
    for moment_s in (0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 1) if overlay else (0.1, 0.2):
        running = rig.run([rig.sh("one", WAITS)], overlay=overlay)
        time.sleep(moment_s)
        running.process.kill()
        running.finish()
        check_gone(running.pod)


def test_a_vmm_may_be_killed_at_any_moment(rig: Rig) -> None:
    for moment_s in (0, 0.1, 0.4):
        running = rig.run([rig.sh("one", WAITS)])
        place = machine.place(running.pod.uuid)
        wait_until(partial(vmm.find_unrecorded, place))
        time.sleep(moment_s)
        hypervisor = vmm.find_unrecorded(place)
        assert hypervisor
        hypervisor.kill()
        code, _, err = running.finish()
        assert code == 254 and b"signal 9" in err
        check_gone(running.pod)


def at_once(*calls: Callable[[], Done]) -> list[Done]:
    """The output of each, all started together."""
    results: list[Done | None] = [None] * len(calls)

    def call(number: int) -> None:
        results[number] = calls[number]()

    threads = [threading.Thread(target=call, args=(number,)) for number in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120 * PATIENCE)
    return [one for one in results if one]


def test_programs_that_come_at_once_take_turns(rig: Rig) -> None:
    running = rig.run([], "--mutable", overlay=False)
    pod = running.pod
    assert pod.wait_ready()
    for name in ("one", "two"):
        assert pod.app_add(rig.sh(name, WAITS)).code == 0
    begun = at_once(
        lambda: pod.app_start("one"), lambda: pod.app_start("two"), lambda: pod.app_start("one"),
        lambda: pod.enter("sh", "-c", "exit 5", app="two"),
    )  # fmt: skip
    assert sorted((begun[0].code, begun[2].code)) == [0, 254] and [one.code for one in begun[1::2]] == [0, 5], begun
    assert [pod.app_state(name) for name in ("one", "two")] == ["running", "running"]
    running.wait_for(b"up\nup\n")
    ended = at_once(*[lambda: pod.app_stop("one")] * 2, *[pod.stop] * 2)
    assert [one.code for one in ended[2:]] == [0, 0], ended
    assert running.finish()[0] == 0 and pod.status() == {"one": 4, "two": 4}
    check_gone(pod)


def read_only(pod: Pod) -> list[str]:
    """The command through which `run` sees its pod's directory read-only."""
    place = pod.rkt.data / "pods" / "run" / pod.uuid
    line = f'mount --bind {place} {place} && mount -o remount,ro,bind {place} && cd {place} && exec "$@"'
    return ["unshare", "--mount", "--propagation", "private", "sh", "-c", line, "sh"]


def test_a_data_directory_that_can_not_be_written_is_reported(rig: Rig) -> None:
    pod = rig.rkt.prepare([rig.sh("one", "true")], overlay=False)
    process = pod.run(net="none", stdin=subprocess.DEVNULL, stdout=-1, stderr=-1, through=read_only(pod))
    _, err = process.communicate(timeout=60 * PATIENCE)
    assert process.returncode == 254 and b"Read-only file system" in err and err.count(b"\n") == 1, err
    assert not (RUN / pod.uuid).exists()
    check_gone(pod)


def test_a_pod_needs_no_descriptor_and_no_home_and_keeps_none_of_the_callers(rig: Rig, tmp_path: Path) -> None:
    leaked = os.open(tmp_path / "leaked", os.O_RDWR | os.O_CREAT)
    pod = rig.rkt.prepare([rig.sh("one", f"{WAITS}; exit 6")])
    closed = ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh"]
    process = pod.run(net="none", env={"PATH": os.environ["PATH"]}, pass_fds=(leaked,), through=closed)
    wait_until(lambda: pod.wait_pid() and vmm.find_unrecorded(machine.place(pod.uuid)))
    hypervisor = vmm.find_unrecorded(machine.place(pod.uuid))
    assert hypervisor
    held = descriptors(hypervisor.pid).values()
    assert str(tmp_path / "leaked") not in held and str(pod.dir) not in held
    os.close(leaked)
    assert pod.enter("true").code == 0, "it has begun"
    assert pod.stop().code == 0 and process.wait(60 * PATIENCE) == 4 and pod.status() == {"one": 4}
    check_gone(pod)
