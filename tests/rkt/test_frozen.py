# SPDX-License-Identifier: Apache-2.0
"""rkt's programs and a pod whose VM is frozen by SIGSTOP: what stops or removes ends it in time, all else says so."""

import os
import signal
import time
from collections.abc import Callable

import pytest

from stage1.entry.stop import GRACE_S
from stage1.rkt import machine
from stage1.rkt.reach import ANSWER_S
from stage1.vm import vmm
from tests.fakes.patience import PATIENCE
from tests.rkt.conftest import Door, Running, wait_until
from tests.rkt.stage0 import Done, Pod

pytestmark = [
    pytest.mark.vm,
    pytest.mark.timeout(300),
    pytest.mark.skipif(os.geteuid() != 0, reason="rkt mounts overlays, so its fake needs root"),
]
WAITS = "trap '' TERM; echo up; while :; do sleep 0.1; done"
STOP_S, SAY_S = GRACE_S + 5, ANSWER_S + 3
"""What is promised: for what stops or removes, and for everything else while the guest says nothing. The start of a
program may take a second of that.
"""
OLD_S = 31
"""A guest that was started so long ago does not boot any more."""


def frozen(door: Door) -> Running:
    """A mutable pod with an app that runs, whose VMM was stopped."""
    running = door.run([], "--mutable", overlay=False)
    begun = time.monotonic()
    pod = running.pod
    assert pod.wait_ready()
    assert pod.app_add(door.sh("one", WAITS)).code == 0 and pod.app_start("one").code == 0
    running.wait_for(b"up\n")
    hung = vmm.find_unrecorded(machine.place(pod.uuid))
    assert hung is not None
    time.sleep(max(0, OLD_S - (time.monotonic() - begun)))
    os.kill(hung.pid, signal.SIGSTOP)
    return running


def within(limit_s: float, call: Callable[[], Done]) -> Done:
    begun = time.monotonic()
    done = call()
    assert time.monotonic() - begun < limit_s * PATIENCE, done
    return done


def check_ended(running: Running) -> None:
    assert running.finish()[0] == 254
    pod: Pod = running.pod
    wait_until(lambda: pod.state() == "exited")
    assert vmm.find_unrecorded(machine.place(pod.uuid)) is None
    assert pod.gc().code == 0


def test_enter_and_start_say_that_the_guest_does_not_answer_and_stop_ends_it(door: Door) -> None:
    running = frozen(door)
    pod = running.pod
    for call in (lambda: pod.enter("true", app="one"), lambda: pod.app_start("one")):
        done = within(SAY_S, call)
        assert done.code == 254 and "did not answer within 4 s" in done.stderr, done
    done = within(STOP_S, pod.stop)
    assert done.code == 0 and "did not end by itself" in done.stderr
    check_ended(running)


@pytest.mark.parametrize("call", ["app_stop", "app_rm"])
def test_an_app_that_is_stopped_or_removed_ends_with_its_pod(door: Door, call: str) -> None:
    running = frozen(door)
    done = within(STOP_S, lambda: getattr(running.pod, call)("one"))
    assert done.code == 0, done
    assert call == "app_rm" or "did not react" in done.stderr  # rkt stops before it removes
    check_ended(running)
