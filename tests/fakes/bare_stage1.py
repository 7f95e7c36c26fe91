# SPDX-License-Identifier: Apache-2.0
"""A stage1 image with the real launcher and jailer and, in place of Python and the VMM, shell scripts: for tests of the
launcher.

`run` writes down what it was given and then the order that the test wants; the VMM's script runs in a jail where it
may write into the test's directory. `stop` writes down its arguments, and what
it is told to do about the VMM is done.
"""

import fcntl
import os
import signal
import struct
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

MARK = b"\nclearpod-console\n"
OUT, ERR, END, IN, EOF, SIZE, GO = range(1, 8)
PYTHON = """#!/bin/sh
shift 11
{{ echo "$@"; env; ls -l /proc/$$/fd; }} > {place}/python
case "$1" in
run) test ! -s {place}/fails || exit $(cat {place}/fails)
     test ! -e {place}/spec || cat {place}/spec > /proc/self/fd/$CLEARPOD_SPEC_FD
     test ! -e {place}/launch || cat {place}/launch > /proc/self/fd/$CLEARPOD_LAUNCH_FD
     test ! -e {place}/copy || cat {place}/copy > /proc/self/fd/$CLEARPOD_COPY_FD;;
stop) echo "$@" >> {place}/stopped;;
*) exit 33;;
esac
"""
SYSTEM = [
    f"r{path}" for path in ("/usr", "/bin", "/lib", "/lib64") if Path(path).is_dir() and not Path(path).is_symlink()
]
LINKS = [f"y{os.readlink(path)}:{path}" for path in ("/bin", "/lib", "/lib64") if Path(path).is_symlink()]
OWNER = 0x70030000
UUID = "6733c088-a507-4694-aabf-eda9d3f3f5c0"


def record(kind: int, payload: bytes = b"") -> bytes:
    """One record of the console."""
    return struct.pack("<BBH", kind, 0, len(payload)) + payload


def _is_in_jail(pid: str) -> bool:
    try:
        return os.readlink(f"/proc/{pid}/ns/pid") != os.readlink("/proc/self/ns/pid")
    except OSError:
        return False  # it has ended


class BareStage1:
    """The image in `place`, and a pod's directory, `pod`."""

    def __init__(self, place: Path, launcher: Path, jailer: str) -> None:
        self.jailer, self.known_pid = jailer, 0
        self.place, self.root, self.pod = place, place / "rootfs", place / "pod"
        self.processes: list[subprocess.Popen[bytes]] = []
        python = self.root / "usr" / "lib" / "clearpod" / "python"
        python.mkdir(parents=True)
        self.pod.mkdir()
        self.place.chmod(0o777)
        (self.root / "launcher").write_bytes(launcher.read_bytes())
        (self.root / "launcher").chmod(0o755)
        for name in ("run", "enter", "stop"):
            (self.root / name).symlink_to("launcher")
        self._script(python / "ld.so", PYTHON.format(place=place))

    def _script(self, path: Path, text: str) -> None:
        path.write_text(text)
        path.chmod(0o755)

    def vmm(
        self,
        *,
        says: bytes = b"",
        then: str = "exec sleep 60",
        interactive: bool = False,
        more: str = "",
        jail: Sequence[str] = (),
    ) -> None:
        """Let `run` order a VMM that writes `says`, and does `then` in a shell.

        `more` is one more word for the launcher, `jail` are more of them for the jailer.
        """
        (self.place / "says").write_bytes(says)
        text = f"#!/bin/sh\nls -l /proc/$$/fd > {self.place}/vmm-fds\necho up > {self.place}/vmm\n"
        self._script(self.place / "vmm.sh", f"{text}cat {self.place}/says\n{then}\n")
        fields = [
            f"j{self.jailer}",
            f"c{self.place}/console",
            *(["i"] if interactive else []),
            *([more] if more else []),
        ]
        self._write("spec", fields)
        (self.place / "jail").mkdir(exist_ok=True)
        own = [f"{self.place}/jail", f"w{self.place}", *SYSTEM, *LINKS, "d1:3:/dev/null", f"c0 {OWNER} 65536", "p"]
        own.append("sffff:/")  # all rights of Landlock, since no rule is none
        self._write("launch", [*own, "n", *jail, f"a{self.place}/vmm.sh", "ePATH=/usr/bin:/bin"])

    def copy(self, then: str) -> Path:
        """Let the VMM that `vmm` has described be tried as a copy of a template first, which does `then` in a shell;
        the template's directory.
        """
        template = self.place / "template"
        template.mkdir()
        for name in ("ram", "state", "manifest.json"):
            (template / name).write_text(f"{name}\n")
        self._script(self.place / "copy.sh", f"#!/bin/bash\n{then}\n")
        spec = (self.place / "spec").read_bytes()
        (self.place / "spec").write_bytes(spec + f"v{template}\0mtell\0s{self.place}/agent.sock\0".encode())
        boots = f"a{self.place}/vmm.sh\0".encode()
        copies = b"".join(f"{word}\0".encode() for word in (f"a{self.place}/copy.sh", "k10", "k12", "k13", "k14"))
        (self.place / "copy").write_bytes((self.place / "launch").read_bytes().replace(boots, copies))
        return template

    def _write(self, name: str, fields: list[str]) -> None:
        (self.place / name).write_bytes(b"".join(word.encode() + b"\0" for word in fields))

    def vmm_pid(self) -> int:
        """Of the script that is the VMM, by which the host knows it; 0 until it runs. Remembered when it has ended."""
        if not self.known_pid and self.wrote("vmm"):
            pid = self.processes[-1].pid
            result = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
            self.known_pid = next((int(one) for one in result if _is_in_jail(one)), 0)
        return self.known_pid

    def hears_signals(self) -> bool:
        """Whether the launcher takes signals, rather than to be ended by them."""
        status = Path(f"/proc/{self.processes[-1].pid}/status").read_text()
        blocked = next((int(line.split()[1], 16) for line in status.splitlines() if line.startswith("SigBlk:")), 0)
        return bool(blocked >> (signal.SIGTERM - 1) & 1)

    def run(
        self, *, env: Mapping[str, str] | None = None, through: Sequence[str] = (), **streams: Any
    ) -> "subprocess.Popen[bytes]":
        """The launcher as rkt starts it, holding the lock; `through` is a command that executes its arguments."""
        lock = os.open(self.pod, os.O_RDONLY | os.O_DIRECTORY)
        fcntl.flock(lock, fcntl.LOCK_EX)
        given = {**(os.environ if env is None else env), "RKT_LOCK_FD": str(lock)}
        piped = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **streams}
        try:
            argv = [*through, f"{self.root}/run", "--net=none", UUID]
            started = subprocess.Popen(argv, cwd=self.pod, env=given, pass_fds=(lock,), **piped)
            self.processes.append(started)
            return started
        finally:
            os.close(lock)

    def clean(self) -> None:
        """End what a test that failed has left."""
        for process in self.processes:
            process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout, process.stderr):
                if stream:
                    stream.close()

    def is_locked(self) -> bool:
        """Whether rkt would say that the pod runs."""
        fd = os.open(self.pod, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return False
        except BlockingIOError:
            return True
        finally:
            os.close(fd)

    def wrote(self, name: str) -> str:
        """What a script has written; empty while it has not."""
        path = self.place / name
        return path.read_text() if path.exists() else ""
