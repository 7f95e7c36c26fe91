# SPDX-License-Identifier: Apache-2.0
"""The real rkt with a pod whose guest has systemd: `systemctl` inside, the journal from outside, codes as ever."""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from stage1.pod.profile import WORD
from tests.fakes import aci
from tests.rkt import stage1_image
from tests.rkt.real import RealRkt, Running, wait_until
from tests.vm.agent_machine import missing

pytestmark = [
    pytest.mark.rkt,
    pytest.mark.vm,
    pytest.mark.skipif(os.geteuid() != 0, reason="rkt mounts overlays, so it needs root"),
]
LASTING = "trap 'echo told; exit 3' TERM; echo up; while :; do sleep 0.1; done"


@pytest.fixture
def rkt(tmp_path: Path, guest_dir: Path) -> Iterator[RealRkt]:
    if lacks := missing():
        pytest.skip(lacks)
    made = RealRkt(tmp_path, stage1_image.archive(guest_dir))
    yield made
    made.clean()


def manifest(rkt: RealRkt, place: Path) -> Path:
    """A pod of two apps that asks for systemd."""
    image = aci.pack(aci.root(place / "root"), place / "busybox.aci", name="example.com/busybox")
    digest = rkt.call("fetch", image).out.split()[-1]
    apps = []
    for name, line in (("web", LASTING), ("worker", "echo starts; echo warning >&2; sleep 600")):
        app = {"exec": ["/bin/sh", "-c", line], "user": "0", "group": "0"}
        apps.append({"name": name, "image": {"name": "example.com/busybox", "id": digest}, "app": app})
    document = {"acVersion": "1.30.0", "acKind": "PodManifest", "apps": apps}
    document["annotations"] = [{"name": WORD, "value": "systemd"}]
    (place / "pod.json").write_text(json.dumps(document))
    return place / "pod.json"


def journal(pod: Running, app: str) -> list[str]:
    place = pod.dir / "stage1/rootfs/var/log/journal" / pod.uuid.replace("-", "")
    argv = ["journalctl", "-D", place, "-o", "cat", "--no-pager", "-u", f"app@{app}", "_TRANSPORT=stdout"]
    return subprocess.run(argv, capture_output=True, text=True, check=False).stdout.splitlines()


def test_two_apps_under_systemd(rkt: RealRkt, tmp_path: Path) -> None:
    pod = rkt.run(f"--pod-manifest={manifest(rkt, tmp_path)}")
    lines = ["starts", "warning"]  # of two streams, which journald reads in either order
    wait_until(lambda: sorted(journal(pod, "worker")) == lines and journal(pod, "web") == ["up"])
    inside = rkt.call("enter", "--app=guest", pod.uuid, "systemctl", "is-active", "app@web", "app@worker")
    assert (inside.code, inside.out) == (0, "active\nactive\n"), inside.err
    assert rkt.call("enter", "--app=guest", pod.uuid, "no-such-program").code == 127
    assert rkt.call("enter", "--app=web", pod.uuid, "/bin/sh", "-c", "exit 5").code == 5
    killed = rkt.call("enter", "--app=guest", pod.uuid, "systemctl", "kill", "--signal=KILL", "app@worker")
    assert killed.code == 0, killed.err
    assert pod.finish().code == 137
    status = pod.status()
    assert (status["app-web"], status["app-worker"]) == ("3", "137")
    assert journal(pod, "web") == ["up", "told"]
    assert rkt.call("rm", pod.uuid).code == 0 and not pod.dir.exists()
