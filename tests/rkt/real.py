# SPDX-License-Identifier: Apache-2.0
"""The real rkt with a data directory of its own and our stage1 image, for tests."""

import json
import os
import pty
import select
import subprocess
import termios
import time
from pathlib import Path
from typing import Any, NamedTuple

from stage1.rkt import machine
from tests.fakes.patience import PATIENCE
from tests.fakes.processes import command_lines

LIMIT_S = 120 * PATIENCE
ENGINE_DIR = "/run/clearpod/rkt/pods"
"""Where the engine's directories of rkt's pods are."""


class Done(NamedTuple):
    """A command of rkt's that has ended."""

    code: int
    out: str
    err: str


class RealRkt:
    """`call` is one command to its end, `run` a pod that goes on. `inside` is a netns for all of it, or empty."""

    def __init__(self, place: Path, stage1: Path, *, inside: str = "") -> None:
        self.place, self.data, self.stage1 = place, place / "data", stage1
        enter = ["nsenter", f"--net={inside}"] if inside else []
        self.prefix = [*enter, "rkt", f"--dir={self.data}", "--insecure-options=image"]
        experiments = {"RKT_EXPERIMENT_APP": "true", "RKT_EXPERIMENT_ATTACH": "true"}
        self.env = {"PATH": os.environ["PATH"], "TERM": "xterm", **experiments}
        self.pods: list[Running] = []

    def forbid_templates(self) -> None:
        """Let all pods boot."""
        place = self.data / machine.TEMPLATES
        place.parent.mkdir(parents=True, mode=0o700, exist_ok=True)
        place.symlink_to("/dev/null")

    def call(self, *arguments: object, **more: Any) -> Done:
        """One command, to its end."""
        given = {"stdin": subprocess.DEVNULL, "env": self.env, **more}
        argv = [*self.prefix, *map(str, arguments)]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=LIMIT_S, check=False, **given)
        return Done(done.returncode, done.stdout, done.stderr)

    def run(self, *arguments: object, command: str = "run", net: str = "none", **streams: Any) -> "Running":
        """`rkt run` or another command that becomes a pod."""
        number = len(self.pods)
        file = self.place / f"uuid-{number}"
        named = [] if command == "run-prepared" else [f"--stage1-path={self.stage1}", f"--uuid-file-save={file}"]
        argv = [*self.prefix, *command.split(), f"--net={net}", *named, *map(str, arguments)]
        piped = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **streams}
        process = subprocess.Popen(argv, env=self.env, **piped)
        self.pods.append(Running(self, process, file if named else str(arguments[-1])))
        return self.pods[-1]

    def clean(self) -> None:
        """End and remove all pods."""
        for pod in self.pods:
            if pod.process.poll() is None:
                pod.process.kill()
            pod.process.wait()
            for stream in (pod.process.stdin, pod.process.stdout, pod.process.stderr):
                if stream:
                    stream.close()
        self.call("gc", "--grace-period=0s")


class Running:
    """A pod that was started: by its process, which is rkt's former one."""

    def __init__(self, rkt: RealRkt, process: "subprocess.Popen[bytes]", named: "Path | str") -> None:
        self.rkt, self.process, self._named = rkt, process, named

    @property
    def uuid(self) -> str:
        """Waits until there is one."""
        if isinstance(self._named, str):
            return self._named
        wait_until(lambda: self._named.exists() and self._named.read_text())
        return self._named.read_text().strip()

    @property
    def dir(self) -> Path:
        """Where the pod is while it runs, and after."""
        return self.rkt.data / "pods/run" / self.uuid

    @property
    def engine_dir(self) -> Path:
        """The engine's directory."""
        return Path(ENGINE_DIR) / self.uuid

    def finish(self, given: bytes | None = None) -> Done:
        """Wait for the end."""
        out, err = self.process.communicate(given, timeout=LIMIT_S)
        return Done(self.process.returncode, (out or b"").decode(), (err or b"").decode())

    def wait_for(self, text: str) -> str:
        """Read the pod's output until `text` has come."""
        assert self.process.stdout
        result, until = b"", time.monotonic() + LIMIT_S
        while text.encode() not in result:
            ready, _, _ = select.select([self.process.stdout], [], [], max(until - time.monotonic(), 0))
            piece = os.read(self.process.stdout.fileno(), 4096) if ready else b""
            assert piece, f"{result!r}, and then nothing; {self.finish()}"
            result += piece
        return result.decode()

    def status(self) -> dict[str, str]:
        """rkt status, as it prints it."""
        lines = self.rkt.call("status", self.uuid).out.splitlines()
        return dict(line.split("=", 1) for line in lines if "=" in line)

    def listed(self) -> dict[str, Any]:
        """rkt list, of this pod."""
        result = json.loads(self.rkt.call("list", "--format=json").out)
        return next(dict(one) for one in result if one["name"] == self.uuid)

    def enter(self, *arguments: object, app: str = "") -> Done:
        """rkt enter, without a terminal."""
        chosen = [f"--app={app}"] if app else []
        return self.rkt.call("enter", *chosen, self.uuid, *arguments)


def on_terminal(argv: list[str], env: dict[str, str], *, given: bytes = b"", after: bytes = b"") -> Done:
    """Run it on a terminal of 24 times 80 to its end; `given` is typed once `after` has been shown."""
    pid, terminal = pty.fork()
    if pid == 0:
        try:
            termios.tcsetwinsize(0, (24, 80))
            os.execvpe(argv[0], argv, env)
        finally:
            os._exit(127)
    result, until, typed = b"", time.monotonic() + LIMIT_S, not given
    while time.monotonic() < until:
        ready, _, _ = select.select([terminal], [], [], 1)
        try:
            result += os.read(terminal, 4096) if ready else b""
        except OSError:
            break
        if not typed and after in result:
            os.write(terminal, given)
            typed = True
    os.close(terminal)
    return Done(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), result.decode("utf-8", "replace"), "")


def wait_until(what: Any, limit_s: float = 30.0) -> None:
    """Wait until it is so."""
    until = time.monotonic() + limit_s * PATIENCE
    while not what():
        assert time.monotonic() < until, "that did not happen in time"
        time.sleep(0.02)


def processes_of(uuid: str) -> list[str]:
    """Command lines that name the pod."""
    return [line.replace("\0", " ") for line in command_lines().values() if uuid in line]


def sh(line: str) -> list[str]:
    """The words that make an app run a line of shell. They come last: rkt gives all that follows `--` to the app."""
    return ["--exec=/bin/sh", "--", "-c", line]


def removed(rkt: RealRkt, pod: Running) -> None:
    """rkt rm, and that nothing is left."""
    done = rkt.call("rm", pod.uuid)
    assert done.code == 0 and pod.uuid in done.out, done.err
    assert "exit status" not in done.err, done.err
    assert processes_of(pod.uuid) == [] and not pod.dir.exists() and not pod.engine_dir.exists()
    assert pod.uuid not in Path("/proc/self/mountinfo").read_text()
    assert not os.path.exists(f"/run/netns/clearpod-{pod.uuid}")
