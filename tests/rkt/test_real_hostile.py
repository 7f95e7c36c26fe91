# SPDX-License-Identifier: Apache-2.0
"""The real rkt with a guest that was taken over, as an app with every capability is: what rkt, as root, finds where it
looks for codes of apps.
"""

import copy
import os
import signal
from pathlib import Path

import pytest

from tests.rkt.real import RealRkt, removed, sh

pytestmark = [
    pytest.mark.rkt,
    pytest.mark.vm,
    pytest.mark.skipif(os.geteuid() != 0, reason="rkt mounts overlays, so it needs root"),
]
THERE = "cd /proc/1/root/run/clearpod/volumes/status"


@pytest.fixture
def free(rkt: RealRkt) -> RealRkt:
    """rkt that confines no app in its guest."""
    made = copy.copy(rkt)
    made.prefix = [one.replace("=image", "=image,all-run") for one in rkt.prefix]
    return made


def test_rkt_takes_no_harm_from_what_a_guest_puts_in_place_of_codes(free: RealRkt, app: Path) -> None:
    line = f"{THERE}; ln -s /dev/zero busybox; echo planted; sleep 0.3; mkfifo busybox; exec sleep 1000"
    pod = free.run(app, *sh(line))
    pod.wait_for("planted\n")
    pod.process.kill()
    pod.process.wait()
    for command in (["status", pod.uuid], ["status", "--format=json", pod.uuid], ["list", "--format=json"]):
        bounded = copy.copy(free)
        bounded.prefix = ["timeout", "60", "prlimit", f"--as={4 << 30}", *free.prefix]
        done = bounded.call(*command)
        assert done.code == 0 and pod.uuid in done.out + pod.uuid, (command, done)
    removed(free, pod)


def test_an_app_that_is_started_again_empties_no_file_of_the_hosts(free: RealRkt, app: Path, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("whole")
    free.call("fetch", app)
    pod = free.run(command="app sandbox")
    assert free.call("status", "--wait-ready", pod.uuid).code == 0
    attack = f"{THERE}; while :; do ln -s {victim} other-started; ln -s {victim} .l; mv .l other; done 2>&-"
    for name, line in (("evil", attack), ("other", "exit 3")):
        done = free.call("app", "add", pod.uuid, "example.com/busybox:1.0", f"--name={name}", *sh(line))
        assert done.code == 0, done.err
    assert free.call("app", "start", pod.uuid, "--app=evil").code == 0
    for _ in range(3):
        done = free.call("app", "start", pod.uuid, "--app=other")
        assert done.code == 0, done.err
        assert free.call("app", "stop", pod.uuid, "--app=other").code == 0
    assert victim.read_text() == "whole"
    pod.process.send_signal(signal.SIGKILL)
    pod.process.wait()
    removed(free, pod)
