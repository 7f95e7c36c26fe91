# SPDX-License-Identifier: Apache-2.0
"""A fake of rkt 1.30 itself: lays out pod directories and calls a stage1's programs exactly as rkt does.

    rkt = Stage0(data_dir, stage1_dir)                   # stage1_dir: an unpacked ACI, `manifest` and `rootfs/`
    pod = rkt.prepare([AppSpec("web", image)])           # rkt prepare; `overlay=False` for --no-overlay
    process = pod.run(net="none")                        # rkt run: the stage1's own process, a Popen
    pod.wait_pid(), pod.state(), pod.status()            # what rkt would print
    pod.enter("ls", "/", app="web").stdout               # rkt enter, to its end; `start_enter` for the Popen
    pod.stop(), pod.stop(force=True)                     # rkt stop
    pod.gc()                                             # rkt gc, rkt rm: moves, calls, unmounts, deletes
    sandbox = rkt.prepare([], mutable=True)              # rkt app sandbox; then
    sandbox.run(); sandbox.app_add(AppSpec("a", image)); sandbox.app_start("a"); sandbox.app_stop("a")
    sandbox.app_rm("a"); sandbox.attach("a", "list")

An `Image` is a directory with an image's root and its `app` object. The two files `pod` and `manifest` of a pod
are written as given, so a test can put any nonsense there. `pod.reboot()` takes all mounts away. `rkt.clean()` kills
and unmounts what tests left. Needs root. tests/rkt/test_real_rkt.py compares it with the real rkt.
"""

import fcntl
import json
import os
import subprocess
import time
import uuid as uuids
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tests.fakes.patience import PATIENCE
from tests.rkt.images import AppSpec, Document, Image, copy
from tests.rkt.pod_files import ANNOTATION, PodFiles

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
ORDER = (
    "debug", "net", "interactive", "private-users", "mds-token", "local-config", "hostname", "dns-conf-mode",
    "disable-capabilities-restriction", "disable-paths", "disable-seccomp", "mutable", "ipc",
)  # fmt: skip
"""Of the flags of `run`."""


class Done(NamedTuple):
    """A program that has ended."""

    code: int
    stdout: str
    stderr: str


class Stage0:
    """rkt with its data directory. `stage1` is an unpacked stage1 image."""

    def __init__(self, data: Path, stage1: Path) -> None:
        self.data, self.stage1 = data.resolve(), Image(stage1 / "rootfs", {}, "example.com/stage1")
        self.stage1_manifest: Document = json.loads((stage1 / "manifest").read_text())
        self.pods: list[Pod] = []
        for name in ("embryo", "prepare", "prepared", "run", "exited-garbage", "garbage"):
            (self.data / "pods" / name).mkdir(parents=True, mode=0o750, exist_ok=True)

    def prepare(
        self,
        apps: Sequence[AppSpec],
        *,
        overlay: bool = True,
        mutable: bool = False,
        uuid: str = "",
        **manifest: Any,
    ) -> "Pod":
        """A prepared pod; further keywords are laid over the pod manifest."""
        pod = Pod(self, uuid or str(uuids.uuid4()), overlay=overlay, mutable=mutable)
        pod.lay_out(apps, manifest)
        self.pods.append(pod)
        return pod

    def tree(self, image: Image) -> Path:
        """The image in the tree store, rendered once."""
        place = self.data / "cas" / "tree" / image.tree
        if not place.exists():
            place.mkdir(parents=True)
            copy(image.root, place / "rootfs")
            (place / "manifest").write_text(json.dumps(image.manifest()))
        return place

    def program(self, name: str) -> str:
        """The path of an entry point in the stage1's root, from its manifest."""
        result = {one["name"]: one["value"] for one in self.stage1_manifest["annotations"]}
        return str(result[f"{ANNOTATION}{name}"]).lstrip("/")

    def clean(self) -> None:
        """Kill what still runs and unmount everything."""
        for pod in self.pods:
            for process in pod.processes:
                if process.poll() is None:
                    process.kill()
                process.wait()
            pod.reboot()


class Pod(PodFiles):
    """One pod, with the programs that rkt calls for it."""

    def run(
        self,
        *flags: str,
        net: str = "default",
        prepared: bool = False,
        local_config: str = "/etc/rkt",
        env: Mapping[str, str] | None = None,
        texts: Mapping[str, str] | None = None,
        through: Sequence[str] = (),
        **streams: Any,
    ) -> subprocess.Popen[bytes]:
        """rkt run, rkt run-prepared or rkt app sandbox: the process that rkt becomes.

        `flags` are put where rkt has them (`--interactive`, `--hostname=a`, ...); `texts` are files in the stage1's
        etc, such as rkt-hosts; `through` is a command that executes its arguments; `streams` go to Popen. The lock's
        descriptor is the child's alone. `begun_s` is the time of the execution, after rkt's mounts.
        """
        self._move("run")
        lock = os.open(self.dir, os.O_RDONLY | os.O_DIRECTORY)
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            self.mount()
            for name, text in (texts or {}).items():
                (self.root / "etc").mkdir(exist_ok=True)
                (self.root / "etc" / name).write_text(text)
            local = () if prepared else (f"--local-config={local_config}",)
            mutable = ("--mutable",) if self.mutable else ()
            arguments = ordered((*flags, f"--net={net}", *local, *mutable))
            given = {"RKT_SELINUX_CONTEXT": "", "RKT_SELINUX_MOUNT_CONTEXT": "", "RKT_LOCK_FD": str(lock)}
            if prepared:
                arguments = [word for word in arguments if not word.startswith("--ipc")]
            argv = [*through, str(self.root / self.rkt.program("run")), *arguments, self.uuid]
            fds = (lock, *streams.pop("pass_fds", ()))
            self.begun_s = time.time()
            started = subprocess.Popen(
                argv, cwd=self.dir, env={**(os.environ if env is None else env), **given}, pass_fds=fds, **streams
            )
        finally:
            os.close(lock)
        self.processes.append(started)
        return started

    # The other programs.

    def enter(self, *command: str, app: str = "", **streams: Any) -> Done:
        """rkt enter, to its end."""
        piped = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return _finish(self.start_enter(*command, app=app, **{**piped, **streams}))

    def start_enter(self, *command: str, app: str = "", **streams: Any) -> subprocess.Popen[bytes]:
        """rkt enter: the program in the tree store, not that of the pod."""
        pid = self.wait_pid()
        program = self.rkt.tree(self.rkt.stage1) / "rootfs" / self.rkt.program("enter")
        argv = [
            str(program),
            f"--pid={pid}",
            f"--appname={app or self._only_app()}",
            "--",
            *(command or ("/bin/bash",)),
        ]
        return self._spawn(argv, leak=True, **streams)

    def stop(self, *, force: bool = False, env: Mapping[str, str] | None = None) -> Done:
        """rkt stop; nothing is called when the pod has ended already."""
        if self.state() != "running":
            return Done(0, f'pod "{self.uuid}" is already stopped\n', "")
        argv = [str(self.root / self.rkt.program("stop")), *(["--force"] if force else []), self.uuid]
        return _finish(self._spawn(argv, leak=True, env=env, stdin=subprocess.DEVNULL, **_captured()))

    def gc(self, *, debug: bool = False, local_config: str = "/etc/rkt", remove: bool = True) -> Done:
        """rkt gc or rm of an exited pod. With `remove` false it could be done again, as after a failure."""
        if self.state() == "running":
            raise AssertionError(f"pod {self.uuid} is currently running")
        self._move("exited-garbage")
        lock = os.open(self.dir, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if self.overlay and not os.path.ismount(self.root):
                self._mount_overlay(self.rkt.stage1, self.root, "")
            arguments = [*(["--debug"] if debug else []), "--local-config", local_config, self.uuid]
            argv = [str(self.root / self.rkt.program("gc")), *arguments]
            null = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
            done = _finish(self._spawn(argv, **null))
        finally:
            os.close(lock)
        if remove:
            self.reboot()
            subprocess.run(["rm", "-rf", "--one-file-system", self.dir], check=True)
        return done

    # Apps of a sandbox, and attach.

    def app_add(self, app: AppSpec) -> Done:
        """rkt app add. The app stays in the manifest when the program fails."""
        self._must_be_ready()
        with self._manifest_lock():
            self._add_files(app)
            self._mount_app(app)
            self._write_env(app)
            document = self.manifest()
            self.write_manifest({**document, "apps": [*document["apps"], app.document()]})
            self._mark(f"{app.name}-created")
            return self._crossing("app/add", f"--uuid={self.uuid}", f"--app={app.name}")

    def app_start(self, app: str) -> Done:
        """rkt app start."""
        self._must_be_ready()
        for name in (f"{app}-started", app):
            (self.root / "rkt" / "status" / name).unlink(missing_ok=True)
        self._mark(f"{app}-started")
        return self._crossing("app/start", f"--app={app}")

    def app_stop(self, app: str) -> Done:
        """rkt app stop."""
        self._must_be_ready()
        return self._crossing("app/stop", f"--app={app}")

    def app_rm(self, app: str) -> Done:
        """rkt app rm: both programs while the pod runs, then the files."""
        with self._manifest_lock():
            if self.state() == "running":
                self._must_be_ready()
                for program in ("app/stop", "app/rm"):
                    done = self._crossing(program, f"--app={app}")
                    if done.code:
                        return done
            spec = self.specs.pop(app)
            if self.overlay:
                subprocess.run(["umount", self.app_root(app)], check=True)
            gone = [f"appsinfo/{app}", f"stage1/rootfs/opt/stage2/{app}", f"stage1/rootfs/rkt/status/{app}"]
            gone += [f"stage1/rootfs/rkt/env/{app}", f"overlay/{spec.image.tree}"]
            subprocess.run(["rm", "-rf", "--one-file-system", *(self.dir / name for name in gone)], check=True)
            document = self.manifest()
            self.write_manifest({**document, "apps": [one for one in document["apps"] if one["name"] != app]})
        return Done(0, "", "")

    def attach(self, app: str, mode: str = "auto", **streams: Any) -> subprocess.Popen[bytes]:
        """rkt attach: `mode` is auto, list, or a comma list of stdin, stdout, stderr, tty, tty-in, tty-out."""
        self.wait_pid()
        expected = set(mode.split(",")) | ({"tty-in", "tty-out"} if "tty" in mode.split(",") else set())
        names = ("tty-in", "tty-out", "stdin", "stdout", "stderr")
        custom = ["--action=custom-attach", *(f"--{name}={str(name in expected).lower()}" for name in names)]
        action = {"auto": ["--action=auto-attach"], "list": ["--action=list"]}.get(mode, custom)
        argv = [str(self.root / self.rkt.program("attach")), *action, f"--app={app}", "--debug=false"]
        return self._spawn(argv, leak=True, env=self._crossing_env(), **streams)

    def _crossing(self, program: str, *arguments: str) -> Done:
        argv = [str(self.root / self.rkt.program(program)), "--debug=false", *arguments]
        return _finish(self._spawn(argv, env=self._crossing_env(), stdin=subprocess.DEVNULL, **_captured()))

    def _crossing_env(self) -> dict[str, str]:
        enter = str(self.root / self.rkt.program("enter"))
        path = os.environ.get("PATH", PATH)
        return {"RKT_STAGE1_ENTERCMD": enter, "RKT_STAGE1_ENTERPID": str(self.wait_pid()), "PATH": path}

    def _must_be_ready(self) -> None:
        assert self.mutable and self.state() == "running" and self.is_ready(), "rkt would refuse this"

    def _manifest_lock(self) -> "_Lock":
        return _Lock(self.dir / "pod.lck")

    def _write_env(self, app: AppSpec) -> None:
        place = self.root / "rkt" / "env"
        place.mkdir(exist_ok=True)
        pairs = app.document()["app"].get("environment") or []
        (place / app.name).write_text("".join(f"{one['name']}={one['value']}\n" for one in pairs))

    def _only_app(self) -> str:
        assert len(self.specs) == 1, "rkt would ask for --app"
        return next(iter(self.specs))

    def _spawn(
        self, argv: list[str], *, leak: bool = False, env: Mapping[str, str] | None = None, **streams: Any
    ) -> subprocess.Popen[bytes]:
        """None of these programs gets the lock; some get a descriptor of net-info.json, which rkt forgets to close."""
        info = self.dir / "net-info.json"
        fds = (os.open(info, os.O_RDONLY),) if leak and info.exists() else ()
        try:
            started = subprocess.Popen(argv, cwd=self.dir, env=env, pass_fds=fds, **streams)
        finally:
            for fd in fds:
                os.close(fd)
        self.processes.append(started)
        return started


class _Lock:
    """rkt's lock on the manifest."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        self._fd = os.open(self._path, os.O_RDWR)
        fcntl.flock(self._fd, fcntl.LOCK_EX)

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)


def ordered(flags: Sequence[str]) -> list[str]:
    """The flags of `run` in the order in which rkt gives them."""
    return sorted(flags, key=lambda flag: ORDER.index(flag.removeprefix("--").partition("=")[0]))


def _captured() -> dict[str, Any]:
    return {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}


def _finish(process: "subprocess.Popen[bytes]") -> Done:
    out, err = process.communicate(timeout=300 * PATIENCE)
    return Done(process.returncode, (out or b"").decode("utf-8", "replace"), (err or b"").decode("utf-8", "replace"))
