# SPDX-License-Identifier: Apache-2.0
"""A mutable pod of rkt's in a real VM: apps come, start, end, start again and go."""

import json
import os
import select
import signal
import subprocess
import time

import pytest

from stage1.entry.stop import GRACE_S
from stage1.rkt import machine
from stage1.vm import vmm
from tests.fakes.patience import PATIENCE
from tests.rkt.conftest import Rig, wait_until
from tests.rkt.images import AppSpec
from tests.rkt.stage0 import Pod

pytestmark = [
    pytest.mark.vm,
    pytest.mark.timeout(300),
    pytest.mark.skipif(os.geteuid() != 0, reason="rkt mounts overlays, so its fake needs root"),
]
WAITS = "trap 'exit 4' TERM; echo up; while :; do sleep 0.1; done"
KEPT = {
    "mounts": [{"volume": "kept", "path": "/kept", "appVolume": {"name": "kept", "kind": "empty"}}],
    "annotations": [{"name": "clearpod.io/root", "value": "disk"}],
}


def succeed(done: object) -> None:
    assert getattr(done, "code", None) == 0, done


def check_apps(rig: Rig, pod: Pod) -> None:
    events = [{"name": "post-stop", "exec": ["/bin/sh", "-c", "echo after > /after"]}]
    succeed(pod.app_add(rig.sh("one", WAITS)._replace(entry=KEPT)))
    succeed(pod.app_add(rig.sh("two", "echo two; exit 3", eventHandlers=events)))
    assert (pod.app_state("one"), pod.app_state("two")) == ("created", "created")
    succeed(pod.app_stop("one"))
    succeed(pod.app_start("one"))
    succeed(pod.app_start("two"))
    wait_until(lambda: pod.status().get("two") == 3)
    assert pod.app_state("one") == "running" and (pod.app_root("two") / "after").read_text() == "after\n"
    assert pod.app_start("one").code == 254 and pod.app_state("one") == "running"
    assert pod.app_add(rig.sh("bad", "true", exec=["/none"])).code == 127
    assert pod.app_start("bad").code == 254 and pod.app_state("bad") == "created", "it was never made in the guest"
    succeed(pod.app_rm("bad"))
    assert pod.enter("sh", "-c", "echo there > /kept/file; echo old > /etc/group; exit 12", app="one").code == 12
    assert pod.enter("true", app="two").code == 254


def check_repeated(rig: Rig, pod: Pod) -> None:
    succeed(pod.app_start("two"))
    wait_until(lambda: pod.status().get("two") == 3)
    succeed(pod.app_stop("one"))
    assert pod.status()["one"] == 4
    succeed(pod.app_stop("one"))
    succeed(pod.app_rm("one"))
    assert not pod.app_root("one").exists()
    new = "grep -q old /etc/group || cat /kept/file; exit 8"  # its volume is the pod's, its root is a new one
    succeed(pod.app_add(rig.sh("one", new)._replace(entry=KEPT)))
    assert pod.app_state("one") == "created"
    succeed(pod.app_start("one"))
    wait_until(lambda: pod.status().get("one") == 8)


def test_apps_come_and_go_and_the_pod_stays_until_it_is_stopped(rig: Rig) -> None:
    running = rig.run([], "--mutable", overlay=False)
    pod = running.pod
    assert pod.wait_ready()
    check_apps(rig, pod)
    check_repeated(rig, pod)
    assert pod.app_add(rig.sh("odd", "true", user="nobody-knows")).code == 254
    assert pod.state() == "running"
    succeed(pod.stop())
    code, out, _ = running.finish()
    assert (code, out) == (0, b"up\ntwo\ntwo\nthere\n")


def streamed(app: AppSpec, *names: str) -> AppSpec:
    annotations = [{"name": f"coreos.com/rkt/stage2/{name}", "value": "stream"} for name in names]
    return app._replace(entry={"annotations": annotations})


def check_attach(rig: Rig, pod: Pod) -> None:
    line = "yes 0123456789 | head -n 30000; while read x; do echo got $x; echo err >&2; done"
    succeed(pod.app_add(streamed(rig.sh("talks", line), "stdin", "stdout", "stderr")))
    first = pod.attach("talks", "stdout", stdout=-1, stderr=-1)
    assert first.wait(60 * PATIENCE) == 254, "it does not run yet"
    succeed(pod.app_start("talks"))
    listed = json.loads(pod.attach("talks", "list", stdout=-1).communicate(timeout=60 * PATIENCE)[0])
    assert [one["name"] for one in listed["targets"]] == ["stdin", "stdout", "stderr"]
    both = pod.attach("talks", stdin=-1, stdout=-1, stderr=-1)
    other = pod.attach("talks", "stdout", stdin=subprocess.DEVNULL, stdout=-1, stderr=-1)
    assert both.stdin and both.stdout and other.stdout
    result = {both.stdout.fileno(): b"", other.stdout.fileno(): b""}
    until = time.monotonic() + 60 * PATIENCE
    while not all(b"got words" in text for text in result.values()):
        assert time.monotonic() < until, result
        both.stdin.write(b"words\n")
        both.stdin.flush()
        for fd in select.select(list(result), [], [], 0.2)[0]:
            result[fd] += os.read(fd, 65536)
    succeed(pod.app_stop("talks"))
    assert b"err\n" in both.communicate(timeout=60 * PATIENCE)[1] and both.returncode == 0
    other.communicate(timeout=60 * PATIENCE)
    assert other.returncode == 0
    wrong = pod.attach("one", "stdout", stdout=-1, stderr=-1)
    assert b"stdout" in wrong.communicate(timeout=60 * PATIENCE)[1] and wrong.returncode == 254


def test_apps_on_overlays_and_a_guest_that_hangs(rig: Rig) -> None:
    running = rig.run([], "--mutable")
    pod = running.pod
    assert pod.wait_ready()
    succeed(pod.app_add(rig.sh("one", f"echo x > /new; {WAITS}")))
    succeed(pod.app_start("one"))
    wait_until((pod.dir / "overlay" / rig.image.tree / "upper" / "one" / "new").exists)
    check_attach(rig, pod)
    succeed(pod.app_rm("one"))
    assert not os.path.ismount(pod.app_root("one"))
    hung = vmm.find_unrecorded(machine.place(pod.uuid))
    assert hung is not None
    os.kill(hung.pid, signal.SIGSTOP)
    begun = time.monotonic()
    done = pod.stop()
    assert done.code == 0 and pod.uuid in done.stderr
    assert time.monotonic() - begun < (GRACE_S + 5) * PATIENCE
    assert running.finish()[0] == 137 and pod.state() == "exited"
