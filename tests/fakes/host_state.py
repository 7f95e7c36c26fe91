# SPDX-License-Identifier: Apache-2.0
"""What clearpod has on this machine at a moment, so that a test can check that afterwards it is as before.

Used by every test that runs real pods. It reads /proc and the disk itself, never through clearpod's code. A test has
one root for run directory, state directory and temporary files; the rest of the machine does not count.
"""

import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from tests.fakes.patience import PATIENCE
from tests.fakes.processes import command_lines

Seen = dict[str, list[str]]
VMM = re.compile(r"/\S*/(qemu-system-x86_64|lkvm) ")

LASTING = ("format", "run/format", "failed.json")
"""Which version a run directory is of, and the last sandboxes that failed: they stay, as the directory does."""


class HostState:
    """Looks below `root`, which is to have `run`, `state` and `tmp`, and at processes and mounts that name it."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def seen(self) -> Seen:
        """Everything that a pod may leave, by kind."""
        return {
            "processes": sorted(self.processes().values()),
            "mounts": [line for line in _lines("/proc/self/mountinfo") if f"{self.root}/" in line],
            "run_dir": [name for name in _below(self.root / "run") if name not in LASTING],
            "state_dir/tmp": _below(self.root / "state/tmp"),
            "state_dir/scratch": _below(self.root / "state/scratch"),
            "state_dir/forks": _below(self.root / "state/forks"),
            "state_dir/snapshots": [name for name in _below(self.root / "state/snapshots") if "/" in name],
            "state_dir/vm-templates": [name for name in _below(self.root / "state/vm-templates") if ".new/" in name],
            "temporary files": _below(self.root / "tmp"),
            "network namespaces": self._ours(os.listdir("/run/netns") if os.path.isdir("/run/netns") else []),
            "network records": [name for name in _below(self.root / "state/cni") if name != "run"],
            "rules": self._ours(_rules()),
            "leases": self._ours(_leases()),
            "cgroups": self._ours(_cgroups()),
            "ids": [target for target in _claims() if target.startswith(f"{self.root}/") and os.path.lexists(target)],
        }

    def _ours(self, lines: list[str]) -> list[str]:
        """Those with the id of a pod that a daemon of this root has logged; others on the machine have some too."""
        log = self.root / "serve.log"
        output = log.read_text(encoding="utf-8") if log.exists() else ""
        return sorted(line for line in lines if (pod := re.search("[0-9a-f]{64}", line)) and pod[0] in output)

    def processes(self) -> dict[int, str]:
        """Processes whose command line names the root: VMMs and clearpod itself; pid -> command line."""
        lines = {pid: line.replace("\0", " ") for pid, line in command_lines().items() if pid != os.getpid()}
        return {pid: line for pid, line in lines.items() if f"{self.root}/" in line}

    def vmms(self) -> list[int]:
        """Pids of the hypervisors that run a guest of this root."""
        return [pid for pid, command in self.processes().items() if VMM.match(command)]

    def added(self, before: Seen, *, within_s: float = 0) -> dict[str, list[str]]:
        """What is there now and was not `before`, empty when all is as it was; waits for that `within_s`."""
        deadline = time.monotonic() + within_s * PATIENCE
        while True:
            now = self.seen()
            new = {kind: [one for one in result if one not in before[kind]] for kind, result in now.items()}
            new = {kind: result for kind, result in new.items() if result}
            if not new or time.monotonic() >= deadline:
                return new
            time.sleep(0.05)


def _lines(path: str) -> list[str]:
    return Path(path).read_text(encoding="utf-8").splitlines()


def _below(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*")) if root.is_dir() else []


def _rules() -> list[str]:
    """Of this network namespace; plugins write the pod's id into a comment."""
    result = []
    for tool in ("iptables-save", "ip6tables-save"):
        if shutil.which(tool):
            result += subprocess.run(
                [tool], capture_output=True, text=True, timeout=20, check=False
            ).stdout.splitlines()
    return result


def _leases() -> list[str]:
    """host-local's files hold the pod's id."""
    files = Path("/var/lib/cni/networks").rglob("*")
    return _of_each(files, lambda path: f"{path}: {path.read_text(errors='replace')}")


def _claims() -> list[str]:
    """Directories of pods that have claimed ids of the host; that of a pod that is gone counts for nothing."""
    place = Path("/run/clearpod-ids")
    return sorted(_of_each(place.iterdir() if place.is_dir() else [], os.readlink))


def _of_each(paths: Iterable[Path], read: Callable[[Path], str]) -> list[str]:
    """Of those that can be looked at: what others have on the machine goes meanwhile."""
    result = []
    for path in paths:
        with suppress(OSError):
            result.append(read(path))
    return result


def _cgroups() -> list[str]:
    return [str(path) for path in Path("/sys/fs/cgroup").rglob("clearpod-*")]
