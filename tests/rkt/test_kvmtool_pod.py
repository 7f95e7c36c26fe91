# SPDX-License-Identifier: Apache-2.0
"""A pod of rkt's on the real kvmtool, as in the lab: the console is another device there, and the guest listens."""

import os

import pytest

from tests.rkt.conftest import Door

pytestmark = [
    pytest.mark.vm,
    pytest.mark.kvmtool,
    pytest.mark.timeout(300),
    pytest.mark.skipif(os.geteuid() != 0, reason="rkt mounts overlays, so its fake needs root"),
]


def test_a_pod_talks_is_entered_and_stopped(door: Door) -> None:
    line = "cat; echo over >&2; trap 'echo told; exit 9' TERM; while :; do sleep 0.5; done"
    running = door.run([door.sh("one", line)], "--interactive", stdin=-1)
    assert running.process.stdin and running.process.stdout
    running.process.stdin.write(b"given\0")
    running.process.stdin.close()
    running.process.stdin = None
    assert running.wait_for(b"given\0") == b"given\0"
    done = running.pod.enter("sh", "-c", "echo in; exit 42")
    assert (done.code, done.stdout) == (42, "in\n")
    running.process.terminate()
    assert running.finish() == (0, b"told\n", b"over\n")
    assert running.pod.status() == {"one": 9} and running.pod.gc().code == 0
