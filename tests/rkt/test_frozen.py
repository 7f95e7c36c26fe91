# SPDX-License-Identifier: Apache-2.0
"""rkt's programs and a pod whose VM is frozen by SIGSTOP: stop and removal end it in time, all others report it."""

import os
import signal
import time
from collections.abc import Callable

import pytest

from stage1.entry.stop import GRACE_S
from stage1.rkt import machine
from stage1.rkt.connect import ANSWER_S, SAMPLE_S
from stage1.vm import vmm
from tests.fakes.patience import PATIENCE
from tests.rkt.conftest import Rig, Running, wait_until
from tests.rkt.stage0 import Done, Pod

pytestmark = [
    pytest.mark.vm,
    pytest.mark.timeout(300),
    pytest.mark.skipif(os.geteuid() != 0, reason="rkt mounts overlays, so its fake needs root"),
]
WAITS = "trap '' TERM; echo up; while :; do sleep 0.1; done"
STOP_S, SAY_S = GRACE_S + 5, ANSWER_S + SAMPLE_S + 3
"""What is promised: for what stops or removes, and for everything else while the guest says nothing, which might boot
still. The start of a program may take a second of that.
"""


@pytest.fixture
def frozen(rig: Rig) -> Running:
    """A mutable pod with an app that runs, whose VMM was just started, and stopped."""
    running = rig.run([], "--mutable", overlay=False)
    assert running.pod.wait_ready()
    assert running.pod.app_add(rig.sh("one", WAITS)).code == 0 and running.pod.app_start("one").code == 0
    running.wait_for(b"up\n")
    hung = vmm.find_unrecorded(machine.place(running.pod.uuid))
    assert hung is not None
    os.kill(hung.pid, signal.SIGSTOP)
    return running


def within(limit_s: float, call: Callable[[], Done]) -> Done:
    begun = time.monotonic()
    done = call()
    assert time.monotonic() - begun < limit_s * PATIENCE, done
    return done


def check_ended(running: Running) -> None:
    assert running.finish()[0] == 137
    pod: Pod = running.pod
    wait_until(lambda: pod.state() == "exited")
    assert vmm.find_unrecorded(machine.place(pod.uuid)) is None
    assert pod.gc().code == 0


def test_enter_and_start_report_a_guest_that_does_not_answer_and_stop_ends_it(frozen: Running) -> None:
    pod = frozen.pod
    for call in (lambda: pod.enter("true", app="one"), lambda: pod.app_start("one")):
        done = within(SAY_S, call)
        assert done.code == 254 and "--force" in done.stderr, done
    done = within(STOP_S, pod.stop)
    assert done.code == 0 and pod.uuid in done.stderr
    check_ended(frozen)


@pytest.mark.parametrize("call", ["app_stop", "app_rm"])
def test_an_app_that_is_stopped_or_removed_ends_with_its_pod(frozen: Running, call: str) -> None:
    done = within(STOP_S, lambda: getattr(frozen.pod, call)("one"))
    assert done.code == 0, done
    assert call == "app_rm" or frozen.pod.uuid in done.stderr  # rkt stops before it removes
    check_ended(frozen)
