# SPDX-License-Identifier: Apache-2.0
"""Debian's real systemd as PID 1 in namespaces of its own, with a cgroup v2 tree, independent of the host's:
systemd-nspawn refuses a host with both versions. It knows the units that it is given, and no others of this machine.
"""

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

from stage1.linux import cgroup
from tests.fakes.patience import PATIENCE

SYSTEMD = "/usr/lib/systemd/systemd"
TARGETS = ("sysinit", "basic", "shutdown", "multi-user", "network-online", "rescue", "exit", "reboot")
SCRIPT = """
set -e
mount --make-rprivate /
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/systemd/system
cp -r "$0"/units/* /run/systemd/system/
while grep -qx 0 /sys/fs/cgroup/cgroup.procs; do sleep 0.02; done
exec env -i container=test PATH="$PATH" SYSTEMD_UNIT_PATH=/run/systemd/system \
    {systemd} --unit=multi-user.target --log-target=null --show-status=no
"""


def why_not() -> str:
    """What a host lacks for this; empty when nothing."""
    if os.geteuid() != 0:
        return "needs root"
    if not (os.access(SYSTEMD, os.X_OK) and shutil.which("systemctl")):
        return "needs systemd: apt install systemd"
    if not cgroup.tree():
        return "needs cgroup v2, alone or beside version 1"
    return ""


class SystemdMachine:
    """`with SystemdMachine(root, units) as machine:`; `units` are files for /run/systemd/system, by name."""

    def __init__(self, root: Path, units: dict[str, str]) -> None:
        self.root, self._cgroup = root, Path(cgroup.place("", f"clearpod-test-{root.name}"))
        bare = {f"{name}.target": f"[Unit]\nDescription={name}\nDefaultDependencies=no\n" for name in TARGETS}
        for name, text in (bare | units).items():
            path = root / "units" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")

    def __enter__(self) -> "SystemdMachine":
        self._cgroup.mkdir()
        spaces = ["--mount", "--pid", "--cgroup", "--ipc", "--uts", "--mount-proc", "--fork", "--kill-child"]
        argv = ["unshare", *spaces, "sh", "-c", SCRIPT.format(systemd=SYSTEMD), str(self.root)]
        into = f'echo $$ > {self._cgroup}/cgroup.procs; exec "$@"'
        self._process = subprocess.Popen(["sh", "-c", into, "sh", *argv], stdin=subprocess.DEVNULL)
        self._leave_cgroup()
        self._until_it_answers()
        return self

    def __exit__(self, *_: object) -> None:
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()
        deadline = time.monotonic() + 10 * PATIENCE
        for path in sorted([self._cgroup, *self._cgroup.rglob("*")], key=lambda path: -len(path.parts)):
            while path.is_dir():
                try:
                    path.rmdir()
                except OSError:
                    assert time.monotonic() < deadline, (path / "cgroup.procs").read_text()
                    time.sleep(0.05)

    def _leave_cgroup(self) -> None:
        """Its root must be systemd's alone, which waits for that, or it could hand no memory down."""
        deadline = time.monotonic() + 20 * PATIENCE
        while self._pid() == "0":
            assert self._process.poll() is None and time.monotonic() < deadline
            time.sleep(0.02)
        cgroup.join(str(self._cgroup.parent), self._process.pid)

    def _until_it_answers(self) -> None:
        deadline = time.monotonic() + 20 * PATIENCE
        while self.run("systemctl", "is-system-running").stdout.strip() not in ("running", "degraded"):
            assert self._process.poll() is None and time.monotonic() < deadline, self.run("systemctl", "status").stderr
            time.sleep(0.05)

    def _pid(self) -> str:
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        return children[0] if children else "0"

    def run(self, *argv: str) -> "subprocess.CompletedProcess[str]":
        """Run a program in there."""
        enter = ["nsenter", "--all", "--target", self._pid()]
        return subprocess.run([*enter, *argv], capture_output=True, text=True, timeout=60 * PATIENCE, check=False)

    def systemctl(self, *arguments: str) -> str:
        """Its output; it must succeed."""
        ended = self.run("systemctl", "--no-pager", *arguments)
        assert ended.returncode == 0, (arguments, ended.stdout, ended.stderr)
        return ended.stdout.strip()

    def show(self, unit: str, name: str) -> str:
        """A property of a unit."""
        return self.systemctl("show", "--value", "--property", name, unit)
