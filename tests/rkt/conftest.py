# SPDX-License-Identifier: Apache-2.0
"""What tests of rkt's front end share: a stage1 image of this checkout, a busybox image, and the fake of rkt."""

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from stage1.rkt import machine
from stage1.vm.kernels import STOCK
from tests.fakes import aci
from tests.fakes.patience import PATIENCE
from tests.rkt import recorder, small_stage1, stage1_image
from tests.rkt.images import AppSpec, Image
from tests.rkt.real import RealRkt
from tests.rkt.stage0 import Pod, Stage0
from tests.vm.agent_machine import make_image, missing

RUN = Path("/run/clearpod/rkt/pods")
ROOT = {"user": "0", "group": "0"}


class Rig:
    """The fake of rkt with real VMs behind it. `sh` makes an app that runs a line of shell."""

    def __init__(self, place: Path, stage1: Path, image: Path) -> None:
        self.rkt = Stage0(place / "data", stage1)
        self.image = Image(image, ROOT)
        self.templates = self.rkt.data / machine.TEMPLATES
        self.templates.parent.mkdir(mode=0o700, exist_ok=True)
        self.templates.symlink_to("/dev/null")  # each test would make one
        if shared := os.environ.get("CLEARPOD_TEST_TEMPLATES"):
            self.use_templates(Path(shared))
        self._results = Path(os.environ.get("RESULTS", small_stage1.CHECKOUT / "build" / "results"))

    def use_templates(self, place: Path | None = None) -> Path:
        """Let pods be copies of templates, which are in a directory of theirs or in `place`; that directory."""
        self.templates.unlink()
        if place is not None:
            place.mkdir(mode=0o700, exist_ok=True)
            self.templates.symlink_to(place)
        return self.templates

    def sh(self, name: str, line: str, **more: Any) -> AppSpec:
        """Further words are of the app's document."""
        return AppSpec(name, self.image, {"exec": ["/bin/sh", "-c", line], **more})

    def run(self, apps: list[AppSpec], *flags: str, overlay: bool = True, **streams: Any) -> "Running":
        """A pod, started without a network."""
        pod = self.rkt.prepare(apps, overlay=overlay, mutable="--mutable" in flags)
        flags = tuple(flag for flag in flags if flag != "--mutable")
        piped = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **streams}
        return Running(pod, pod.run(*flags, net="none", **piped))

    def clean(self) -> None:
        """End and remove everything; keep what explains a failure."""
        for pod in self.rkt.pods if os.environ.get("CLEARPOD_TEST_TEMPLATES") else ():
            if pod.state() == "exited":
                pod.gc()  # makes the templates
        self.rkt.clean()
        for pod in self.rkt.pods:
            for process in pod.processes:
                for stream in (process.stdin, process.stdout, process.stderr):
                    if stream:
                        stream.close()
            console = RUN / pod.uuid / "console.log"
            if console.exists():
                self._results.mkdir(parents=True, exist_ok=True)
                shutil.copy(console, self._results / f"rkt-{pod.uuid}.console")
            shutil.rmtree(RUN / pod.uuid, ignore_errors=True)


class Running:
    """A pod that was started, and its process."""

    def __init__(self, pod: Pod, process: "subprocess.Popen[bytes]") -> None:
        self.pod, self.process = pod, process

    def finish(self, given: bytes | None = None) -> tuple[int, bytes, bytes]:
        """Wait for its end: code, output, errors."""
        out, err = self.process.communicate(given, timeout=120 * PATIENCE)
        return self.process.returncode, out or b"", err or b""

    def wait_for(self, text: bytes) -> bytes:
        """Read its output until `text` has come."""
        assert self.process.stdout
        result = b""
        while text not in result:
            piece = os.read(self.process.stdout.fileno(), 4096)
            assert piece, result
            result += piece
        return result


def wait_until(what: Callable[[], object], limit_s: float = 20.0, *, pause_s: float = 0.02) -> None:
    """Wait until it is so."""
    until = time.monotonic() + limit_s * PATIENCE
    while not what():
        assert time.monotonic() < until, "that did not happen in time"
        time.sleep(pause_s)


@pytest.fixture(scope="session")
def small_image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root with busybox and a few users."""
    root = tmp_path_factory.mktemp("rkt") / "image"
    make_image(root)
    (root / "etc" / "passwd").write_text("root:x:0:0::/:/bin/sh\nweb:x:1000:1000::/:/bin/sh\n")
    (root / "etc" / "group").write_text("root:x:0:\nweb:x:1000:\n")
    return root


@pytest.fixture(scope="session")
def small_stage1_image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The stage1 image, unpacked."""
    kernel = "vmlinux" if (small_stage1.GUEST_DIR / "vmlinux").exists() else f"vmlinux-{STOCK}"
    if lacks := missing(kernels=(kernel,)):
        pytest.skip(lacks)
    return small_stage1.build(tmp_path_factory.mktemp("rkt") / "stage1")


@pytest.fixture
def rig(tmp_path: Path, small_stage1_image: Path, small_image: Path) -> Iterator[Rig]:
    """The fake of rkt, ready to run pods."""
    made = Rig(tmp_path, small_stage1_image, small_image)
    yield made
    made.clean()


@pytest.fixture(scope="module")
def rkt(tmp_path_factory: pytest.TempPathFactory, guest_dir: Path) -> Iterator[RealRkt]:
    """The real rkt with the real stage1 image."""
    if lacks := missing():
        pytest.skip(lacks)
    made = RealRkt(tmp_path_factory.mktemp("rkt"), stage1_image.archive(guest_dir))
    yield made
    made.clean()


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An app image of busybox."""
    place = tmp_path_factory.mktemp("app")
    root = aci.root(place / "root")
    points = [{"name": "data", "path": "/data"}, {"name": "more", "path": "/more"}]
    ports = [{"name": "web", "protocol": "tcp", "port": 80, "count": 1}]
    return aci.pack(root, place / "busybox.aci", name="example.com/busybox", mountPoints=points, ports=ports)


@pytest.fixture
def image(tmp_path: Path) -> Image:
    """An image with next to nothing in it, for a stage1 that only records how it is called."""
    root = tmp_path / "image"
    for name in ("etc", "bin"):
        (root / name).mkdir(parents=True)
    (root / "bin" / "true").write_text("")
    (root / "bin" / "true").chmod(0o755)
    (root / "etc" / "passwd").write_text("root:x:0:0::/:/bin/sh\nweb:x:33:44::/:/bin/sh\n")
    (root / "etc" / "group").write_text("www:x:55:\n")
    return Image(root, {"exec": ["/bin/true"], **ROOT})


@pytest.fixture
def fake(tmp_path: Path) -> Iterator[Stage0]:
    """The fake of rkt with that stage1."""
    made = Stage0(tmp_path / "data", recorder.build(tmp_path / "stage1"))
    yield made
    made.clean()
