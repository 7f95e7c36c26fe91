# SPDX-License-Identifier: Apache-2.0
"""Where the real rkt is on PATH: it and its fake call the same recording stage1, and its manifests are read."""

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from stage1.pod.model import Limits, Mount, Port, User
from stage1.rkt import loader
from stage1.rkt.arguments import RunOptions
from stage1.rkt.volumes import inside_of
from tests.fakes.patience import PATIENCE
from tests.rkt import recorder
from tests.rkt.images import AppSpec, Image
from tests.rkt.stage0 import Pod, Stage0

pytestmark = [
    pytest.mark.rkt,
    pytest.mark.skipif(os.geteuid() != 0, reason="rkt mounts overlays, so it needs root"),
]


class Real:
    """The real rkt, with the same stage1 and image."""

    def __init__(self, place: Path, stage1: Path, image: Image) -> None:
        self.data, self.place, self.records = place / "real", place, stage1
        self.stage1 = recorder.pack(stage1, place / "stage1.aci")
        packed = place / "packed"
        packed.mkdir()
        (packed / "manifest").write_text(json.dumps(image.manifest()))
        shutil.copytree(image.root, packed / "rootfs", symlinks=True)
        self.image = recorder.pack(packed, place / "image.aci")
        self.options = ["rkt", f"--dir={self.data}", "--insecure-options=image"]
        self.env = {**os.environ, "RKT_EXPERIMENT_APP": "true"}
        self.running: subprocess.Popen[bytes] | None = None

    def __call__(self, *command: str) -> str:
        done = subprocess.run([*self.options, *command], capture_output=True, text=True, timeout=120, env=self.env)
        assert done.returncode == 0, f"rkt {' '.join(command)}: {done.stderr}"
        return done.stdout

    def run(self, *command: str) -> tuple[str, int]:
        """What becomes `run`, ready: the pod's uuid and the process."""
        (self.records / "records").unlink(missing_ok=True)
        saved = self.place / "uuid"
        self.running = subprocess.Popen(
            [*self.options, *command, f"--uuid-file-save={saved}", *self._images(command)], env=self.env
        )
        end = time.monotonic() + 120
        while not recorder.records(self.records):
            assert self.running.poll() is None and time.monotonic() < end, "rkt did not start a pod"
            time.sleep(0.1)
        uuid = saved.read_text()
        self("status", "--wait-ready", uuid)
        return uuid, self.running.pid

    def _images(self, command: tuple[str, ...]) -> list[str]:
        return [str(self.image), "--name=one"] if command[0] == "run" else []

    def finish(self, uuid: str) -> None:
        self("stop", uuid)
        assert self.running and self.running.wait(30 * PATIENCE) == 42
        self("gc", "--grace-period=0s")

    def clean(self) -> None:
        if self.running:
            self.running.kill()
            self.running.wait()
        for line in reversed(Path("/proc/self/mountinfo").read_text().splitlines()):
            if line.split()[4].startswith(f"{self.data}/"):
                subprocess.run(["umount", "-l", line.split()[4]], check=False)


@pytest.fixture
def real(tmp_path: Path, fake: Stage0, image: Image) -> Iterator[Real]:
    made = Real(tmp_path, fake.stage1.root.parent, image)
    yield made
    made.clean()


def told(record: dict[str, Any], *, data: Path, uuid: str, pid: int) -> dict[str, Any]:
    """A record without what differs from pod to pod."""
    names = {str(data): "DATA", uuid: "UUID", f"--pid={pid}": "--pid=PID"}

    def plain(text: object) -> object:
        for old, new in names.items():
            text = str(text).replace(old, new)
        return text

    tree = [plain(word) for word in record["argv"]]
    first = str(tree[0])
    tree[0] = first if "/cas/tree/" not in first else f"DATA/cas/tree/ID/rootfs/{record['name']}"
    env = sorted(name for name in record["env"] if name.startswith("RKT_") and "EXPERIMENT" not in name)
    locks = len(record["locks"])
    return {"argv": tree, "env": env, "cwd": plain(record["cwd"]), "mounted": record["mounted"], "locks": locks}


def told_of(fake: Stage0, pod: Pod, pid: int) -> list[dict[str, Any]]:
    return [told(one, data=fake.data, uuid=pod.uuid, pid=pid) for one in recorder.records(fake.stage1.root.parent)]


def told_by(real: Real, uuid: str, pid: int) -> list[dict[str, Any]]:
    return [told(one, data=real.data, uuid=uuid, pid=pid) for one in recorder.records(real.records)]


def test_a_sandbox_and_its_apps(fake: Stage0, real: Real, image: Image) -> None:
    pod = fake.prepare([], mutable=True)
    process = pod.run("--hostname=h", net="none")
    pod.wait_ready()
    steps: list[Callable[[], Any]] = [
        lambda: pod.app_add(AppSpec("one", image)), lambda: pod.app_start("one"), lambda: pod.enter("true", app="one"),
        lambda: pod.app_stop("one"), lambda: pod.app_rm("one"), pod.stop, lambda: process.wait(20 * PATIENCE), pod.gc,
    ]  # fmt: skip
    for step in steps:
        step()
    expected = told_of(fake, pod, process.pid)
    uuid, pid = real.run("app", "sandbox", f"--stage1-path={real.stage1}", "--hostname=h", "--net=none")
    image_id = real("fetch", str(real.image)).split()[-1]  # app add of a file is a crash of rkt's
    real("app", "add", uuid, image_id, "--name=one")
    for verb in ("start", "enter", "stop", "rm"):
        call = ("enter", "--app=one", uuid, "true") if verb == "enter" else ("app", verb, uuid, "--app=one")
        real(*call)
    real.finish(uuid)
    assert told_by(real, uuid, pid) == expected and len(expected) == 9


@pytest.mark.parametrize("overlay", [True, False])
def test_a_plain_pod(fake: Stage0, real: Real, image: Image, overlay: bool) -> None:
    pod = fake.prepare([AppSpec("one", image)], overlay=overlay)
    process = pod.run("--dns-conf-mode=resolv=host,hosts=default", "--ipc=private", net="none")
    pod.wait_ready()
    pod.enter("true")
    pod.stop(force=True)
    assert process.wait(20 * PATIENCE) == 42
    pod.gc()
    expected = told_of(fake, pod, process.pid)
    copied = [] if overlay else ["--no-overlay"]
    flags = [f"--stage1-path={real.stage1}", "--net=none", "--dns=host", "--ipc=private", *copied]
    uuid, pid = real.run("run", *flags)
    real("enter", uuid, "true")
    real("stop", "--force", uuid)
    assert real.running and real.running.wait(30 * PATIENCE) == 42
    real("gc", "--grace-period=0s")
    assert told_by(real, uuid, pid) == expected and len(expected) == 4


def layout(place: Path) -> dict[str, int]:
    """Names and modes of what rkt has in a pod's directory, without what lies in roots."""
    result = {}
    for folder, folders, names in os.walk(place):
        folders[:] = [name for name in folders if name not in ("rootfs", "overlay")]
        for name in names:
            path = Path(folder) / name
            result[str(path.relative_to(place))] = path.stat().st_mode & 0o777
    return result


@pytest.mark.parametrize("overlay", [True, False])
def test_a_prepared_directory(fake: Stage0, real: Real, image: Image, overlay: bool) -> None:
    pod = fake.prepare([AppSpec("one", image)], overlay=overlay)
    copied = [] if overlay else ["--no-overlay"]
    uuid = real("prepare", "--quiet", f"--stage1-path={real.stage1}", *copied, str(real.image), "--name=one").strip()
    assert layout(pod.dir) == layout(real.data / "pods" / "prepared" / uuid)


FLAGS = """--name=one --user=web --group=www --supplementary-gids=10,11 --working-dir=/etc --readonly-rootfs=true
    --environment=E1=v1 --memory=100M --cpu=500m --cpu-shares=512 --oom-score-adj=10 --caps-retain=CAP_KILL
    --seccomp=mode=retain,errno=EPERM,@rkt/default-whitelist,mount --mount volume=data,target=/extra"""


def test_a_manifest_that_rkt_writes(real: Real) -> None:
    volumes = ["--volume=data,kind=host,source=/tmp,readOnly=true", "--volume=work,kind=empty,mode=0700,uid=5,gid=6"]
    mounts = ["--mount=volume=work,target=/work"]
    options = [
        "--quiet",
        f"--stage1-path={real.stage1}",
        "--no-overlay",
        *volumes,
        str(real.image),
        *FLAGS.split(),
        *mounts,
    ]
    uuid = real("prepare", *options, "--exec=true", "--", "a\nb", "'\"$x").strip()
    result = loader.read_pod(str(real.data / "pods" / "prepared" / uuid), RunOptions(uuid))
    (one,) = result.apps
    process = one.container.process
    assert process.argv == ("/bin/true", "a\nb", "'\"$x") and process.user == User(33, 55, (10, 11))
    assert process.cwd == "/etc" and "E1=v1" in process.env and one.container.security.read_only_root
    shared = str(real.data / "pods" / "prepared" / uuid / "sharedVolumes" / "work")
    inside = inside_of("work")
    assert set(one.container.mounts) == {Mount("/tmp", "/extra", True, True), Mount(shared, "/work", inside=inside)}
    limits = Limits(memory=10**8, cpu_shares=512, cpu_quota_us=50_000, cpu_period_us=100_000)
    assert one.container.limits == limits and one.container.oom_score_adj == 10
    assert one.container.security.add_capabilities == ("CAP_KILL",) and "mount" in one.container.security.seccomp
    assert [(volume.mode, volume.uid, volume.gid) for volume in result.empty_volumes] == [(0o700, 5, 6)]
    assert result.pod.memory_mib == 160 and result.pod.vcpus == 1 and result.pod.ports == () and not result.warnings


def test_a_sandboxs_ports(real: Real) -> None:
    uuid, _ = real.run("app", "sandbox", f"--stage1-path={real.stage1}", "--net=none", "--port=p:tcp:80:0.0.0.0:8080")
    result = loader.read_pod(str(real.data / "pods" / "run" / uuid), RunOptions(uuid, mutable=True))
    real.finish(uuid)
    assert result.pod.ports == (Port(80, 8080, "tcp", "0.0.0.0"),)
