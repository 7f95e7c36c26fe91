# SPDX-License-Identifier: Apache-2.0
"""The directory of a pod as rkt lays it out, mounts it and reads it. Used by stage0, whose Pod goes on from here."""

import fcntl
import json
import os
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.rkt.images import AppSpec, Document, Image, add_mtab, copy

if TYPE_CHECKING:
    from tests.rkt.stage0 import Stage0

ANNOTATION = "coreos.com/rkt/stage1/"


class PodFiles:
    """One pod. `dir` is where it is now."""

    def __init__(self, rkt: "Stage0", uuid: str, *, overlay: bool, mutable: bool) -> None:
        self.rkt, self.uuid, self.overlay, self.mutable = rkt, uuid, overlay, mutable
        self.dir = rkt.data / "pods" / "prepared" / uuid
        self.specs: dict[str, AppSpec] = {}
        self.processes: list[subprocess.Popen[bytes]] = []
        self.begun_s = 0.0

    # What rkt prepare does.

    def lay_out(self, apps: Sequence[AppSpec], more: Mapping[str, Any]) -> None:
        """Write the pod directory as `rkt prepare` does."""
        self.dir.mkdir(mode=0o750)
        self._write("pod-created", "", 0o640)
        self._write("pod.lck", "", 0o600)
        (self.dir / "stage1").mkdir(mode=0o750)
        self._write("stage1/manifest", json.dumps(self.rkt.stage1_manifest), 0o640)
        self._write("stage1TreeStoreID", self.rkt.stage1.tree, 0o640)
        tree = self.rkt.tree(self.rkt.stage1)
        if self.overlay:
            self._write("overlay-prepared", "", 0o644)
            self.root.mkdir(mode=0o755)
        else:
            copy(tree / "rootfs", self.root)
        mutable = {"name": f"{ANNOTATION}mutable", "value": str(self.mutable).lower()}
        annotations = [mutable, *more.get("annotations", ())]
        document = {
            "acVersion": "1.30.0", "acKind": "PodManifest", "apps": [app.document() for app in apps], "volumes": None,
            "isolators": None, "ports": [], **more, "annotations": annotations,
        }  # fmt: skip
        for app in apps:
            self._add_files(app)
        self.write_manifest(document)

    def _add_files(self, app: AppSpec) -> None:
        self.specs[app.name] = app
        manifest = json.dumps(app.image.manifest())
        (self.dir / "appsinfo" / app.name).mkdir(parents=True, mode=0o750)
        self._write(f"appsinfo/{app.name}/manifest", manifest, 0o640)
        tree = self.rkt.tree(app.image)
        if self.overlay:
            self._write(f"appsinfo/{app.name}/treeStoreID", app.image.tree, 0o640)
        else:
            place = self.root / "opt" / "stage2" / app.name
            place.mkdir(parents=True)
            (place / "manifest").write_text(manifest)
            copy(tree / "rootfs", place / "rootfs")
            add_mtab(place / "rootfs")

    def _write(self, name: str, text: str, mode: int) -> None:
        path = self.dir / name
        path.write_text(text)
        path.chmod(mode)

    def write_manifest(self, document: Document) -> None:
        """Replace the pod manifest in one step."""
        temporary = self.dir / "pod.tmp"
        temporary.write_text(json.dumps(document))
        temporary.chmod(0o640)
        temporary.rename(self.dir / "pod")

    def manifest(self) -> Document:
        """rkt cat-manifest."""
        result: Document = json.loads((self.dir / "pod").read_text())
        return result

    # Places.

    @property
    def root(self) -> Path:
        """The stage1 image's root of this pod."""
        return self.dir / "stage1" / "rootfs"

    def app_root(self, app: str) -> Path:
        """The app's root; empty while it is not mounted."""
        return self.root / "opt" / "stage2" / app / "rootfs"

    @property
    def seen(self) -> Path:
        """Where rkt reads what the stage1 wrote."""
        return self.dir / "overlay" / self.rkt.stage1.tree / "upper" if self.overlay else self.root

    # What rkt does before it executes `run`.

    def mount(self) -> None:
        """The overlays of rkt run; nothing without overlay."""
        if self.overlay:
            self._mount_overlay(self.rkt.stage1, self.root, "")
        (self.root / "rkt" / "status").touch()
        for app in self.specs.values():
            self._mount_app(app)

    def _mount_app(self, app: AppSpec) -> None:
        if not self.overlay:
            return
        place = self.root / "opt" / "stage2" / app.name
        (place / "rootfs").mkdir(parents=True, exist_ok=True)
        (place / "manifest").write_text(json.dumps(app.image.manifest()))
        self._mount_overlay(app.image, place / "rootfs", app.name)
        add_mtab(place / "rootfs")

    def _mount_overlay(self, image: Image, target: Path, name: str) -> None:
        base = self.dir / "overlay" / image.tree
        upper, work = base / "upper" / name, base / "work" / name
        for path in (upper, work):
            path.mkdir(parents=True, exist_ok=True)
        lower = self.rkt.tree(image) / "rootfs"
        options = f"lowerdir={lower},upperdir={upper},workdir={work}"
        subprocess.run(["mount", "-t", "overlay", "overlay", "-o", options, target], check=True)

    def _move(self, state: str) -> None:
        target = self.rkt.data / "pods" / state / self.uuid
        if target != self.dir:
            self.dir.rename(target)
            self.dir = target

    def _mark(self, name: str) -> None:
        (self.root / "rkt" / "status" / name).touch()

    def reboot(self) -> None:
        """Take all mounts below the pod away."""
        for path in _mounts_below(self.dir):
            subprocess.run(["umount", "-l", path], check=False)

    # What rkt tells of it.

    def state(self) -> str:
        """As rkt list has it: from the directory's place and the lock alone."""
        kind = self.dir.parent.name
        if kind == "prepared" or not self.dir.exists():
            return kind if self.dir.exists() else "gone"
        held = not self._lock_is_free()
        names = {"run": ("exited", "running"), "exited-garbage": ("exited garbage", "exited deleting")}
        return names[kind][held]

    def _lock_is_free(self) -> bool:
        fd = os.open(self.dir, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        finally:
            os.close(fd)
        return True

    def wait_pid(self, timeout_s: float = 60) -> int:
        """As every command that needs a running pod: until there is a pid, or the pod has ended (0)."""
        return self._wait(lambda: _number(self.dir / "pid"), timeout_s)

    def wait_ready(self, timeout_s: float = 60) -> bool:
        """rkt status --wait-ready."""
        return bool(self._wait(lambda: int(self.is_ready()), timeout_s))

    def _wait(self, probe: Callable[[], int], timeout_s: float) -> int:
        end = time.monotonic() + timeout_s
        while time.monotonic() < end:
            if result := probe():
                return int(result)
            if self._lock_is_free():
                return int(probe())
            time.sleep(0.05)
        raise TimeoutError(f"the pod {self.uuid} did not come so far within {timeout_s} s")

    def is_ready(self) -> bool:
        """Whether app operations are allowed."""
        path = self.seen / "rkt" / "supervisor-status"
        return path.is_symlink() and os.readlink(path) == "ready"

    def status(self) -> dict[str, int]:
        """The exit codes of the apps that have one."""
        result = {}
        for name in self.specs:
            path = self.seen / "rkt" / "status" / name
            if path.exists():
                result[name] = int(path.read_text())
        return result

    def app_state(self, app: str) -> str:
        """rkt app status: unknown, created, running or exited."""
        place, output = self.seen / "rkt" / "status", "unknown"
        for name, state in ((f"{app}-created", "created"), (f"{app}-started", "running"), (app, "exited")):
            output = state if (place / name).exists() else output
        return output if self.state() == "running" else "exited"

    def networks(self) -> list[Document]:
        """net-info.json, which makes every command of rkt's fail when it is no JSON."""
        path = self.dir / "net-info.json"
        return list(json.loads(path.read_text())) if path.exists() else []


def _number(path: Path) -> int:
    """As rkt scans it: leading digits, and nothing while there are none."""
    text = path.read_text().split() if path.exists() else []
    return int(text[0]) if text and text[0].isdigit() else 0


def _mounts_below(place: Path) -> list[str]:
    """Deepest first."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    points = [line.split()[4] for line in lines]
    result = [point for point in points if point == str(place) or point.startswith(f"{place}/")]
    return sorted(result, key=lambda point: point.count("/"), reverse=True)
