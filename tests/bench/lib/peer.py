# SPDX-License-Identifier: Apache-2.0
"""microsandbox (libkrun) from PyPI, for `scripts/bench density --peer VENV`: idle VMs, and time to first output.

It brings its own kernel, agent and defaults, so the figures compare products and not parts. It needs KVM, as kvmtool.
`VENV` is made by hand: python3 -m venv VENV && VENV/bin/pip install microsandbox.
"""

import os
import statistics
import subprocess
import time
from pathlib import Path
from typing import Any

from tests.bench.lib import footprint
from tests.fakes import places
from tests.fakes.patience import PATIENCE

LIMIT_S = 60 * PATIENCE
STARTS = 5


def measure(venv: Path, guest: Path, *, count: int, memory_mib: int, settle_s: float) -> dict[str, Any]:
    """Seconds to the first output of five starts, then `count` idle VMs side by side. Raises RuntimeError."""
    with places.short_directory("peer") as home:
        peer = _Peer(venv / "bin" / "msb", Path(home), memory_mib)
        peer.make_root(guest)
        firsts = [peer.first_output_s() for _ in range(STARTS)]
        before, known = footprint.host(), peer.processes()
        try:
            for number in range(count):
                peer.create(f"peer{number}")
            time.sleep(settle_s)
            after, result = footprint.host(), peer.processes() - known
            sizes = {pid: footprint.rollup(pid) for pid in result}
        finally:
            for number in range(count):
                peer.run("stop", f"peer{number}", check=False)
    total = sum(size["Pss"] for size in sizes.values())
    return {
        "name": "microsandbox",
        "version": peer.version,
        "count": count,
        "memory_mib": memory_mib,
        "first_output_s": [round(value, 2) for value in firsts],
        "first_output_median_s": round(statistics.median(firsts), 2),
        "processes_per_vm": round(len(result) / count, 2),
        "pss_mib_per_vm": round(total / count / 1024, 2),
        "unique_mib_per_vm": round(sum(size["Pss_Anon"] for size in sizes.values()) / count / 1024, 2),
        "shmem_mib_per_vm": round(sum(size["Pss_Shmem"] for size in sizes.values()) / count / 1024, 2),
        "host_mib_per_vm": round((before["available"] - after["available"]) / count / 1024, 2),
    }


class _Peer:
    def __init__(self, program: Path, home: Path, memory_mib: int) -> None:
        self._program, self._home, self._memory = program, home, f"{memory_mib}M"
        self._root = home / "root"
        self.version = self.run("--version").split()[-1]

    def run(self, *argv: str, check: bool = True) -> str:
        environment = {**os.environ, "HOME": str(self._home), "MSB_HOME": str(self._home / "msb")}
        done = subprocess.run(
            [self._program, *argv], env=environment, capture_output=True, text=True, check=False, timeout=LIMIT_S
        )
        if check and done.returncode:
            raise RuntimeError(f"msb {argv[0]} ended with {done.returncode}: {(done.stderr or done.stdout)[-800:]}")
        return done.stdout

    def make_root(self, guest: Path) -> None:
        """The sample image's files, which ours run too."""
        layers = sorted((guest / "sample" / "blobs" / "sha256").iterdir(), key=lambda path: path.stat().st_size)
        self._root.mkdir()
        subprocess.run(["tar", "-xzf", layers[-1], "-C", self._root], check=True, timeout=LIMIT_S)

    def first_output_s(self) -> float:
        """Seconds from the exec of its program to the first output of a command in a new VM."""
        begun = time.monotonic()
        output = self.run(*self._options("run"), "--no-tty", "--", "/bin/busybox", "echo", "hello")
        if "hello" not in output:
            raise RuntimeError(f"its VM did not say hello but {output[-200:]!r}")
        return time.monotonic() - begun

    def create(self, name: str) -> None:
        """An idle VM."""
        self.run(*self._options("create"), "--name", name)

    def _options(self, verb: str) -> list[str]:
        return [verb, str(self._root), "--memory", self._memory, "--cpus", "1", "--no-net", "--quiet"]

    def processes(self) -> set[int]:
        """Pids of its program."""
        expected, result = os.path.realpath(self._program), set()
        bundled = str(self._program.parent.parent)
        for name in filter(str.isdigit, os.listdir("/proc")):
            try:
                program = os.readlink(f"/proc/{name}/exe")
            except OSError:
                continue
            if program == expected or program.startswith(bundled):
                result.add(int(name))
        return result
