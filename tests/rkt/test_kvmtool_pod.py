# SPDX-License-Identifier: Apache-2.0
"""A pod of rkt's on the real kvmtool, as in the lab: the console is another device there, and the guest listens."""

import os
import subprocess

import pytest

from stage1.pod.profile import WORD
from tests.rkt.conftest import Rig, Running

pytestmark = [
    pytest.mark.vm,
    pytest.mark.kvmtool,
    pytest.mark.timeout(300),
    pytest.mark.skipif(os.geteuid() != 0, reason="rkt mounts overlays, so its fake needs root"),
]


def test_a_pod_talks_is_entered_and_stopped(rig: Rig) -> None:
    line = "cat; echo over >&2; trap 'echo told; exit 9' TERM; while :; do sleep 0.5; done"
    running = rig.run([rig.sh("one", line)], "--interactive", stdin=-1)
    assert running.process.stdin and running.process.stdout
    running.process.stdin.write(b"given\0")
    running.process.stdin.close()
    running.process.stdin = None
    assert running.wait_for(b"given\0") == b"given\0"
    done = running.pod.enter("sh", "-c", "echo in; exit 42")
    assert (done.code, done.stdout) == (42, "in\n")
    running.process.terminate()
    assert running.finish() == (9, b"told\n", b"over\nclearpod: app one ended with code 9\n")
    assert running.pod.status() == {"one": 9} and running.pod.gc().code == 0


def test_with_systemd_the_apps_output_is_on_the_console_and_in_the_journal(rig: Rig) -> None:
    note = {"name": WORD, "value": "systemd"}
    pod = rig.rkt.prepare([rig.sh("one", "echo out; echo wrong >&2; exit 3")], annotations=[note])
    running = Running(pod, pod.run(net="none", stdin=-1, stdout=-1, stderr=-1))
    code, out, err = running.finish()
    assert (code, out) == (3, b"out\n") and err.startswith(b"wrong\n"), (code, out, err)
    place = pod.root / "var" / "log" / "journal" / pod.uuid.replace("-", "")
    argv = ["journalctl", "-D", place, "-o", "cat", "--no-pager", "-u", "app@one", "_TRANSPORT=stdout"]
    assert sorted(subprocess.run(argv, capture_output=True, check=True).stdout.split()) == [b"out", b"wrong"]
