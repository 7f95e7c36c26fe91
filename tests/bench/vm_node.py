# SPDX-License-Identifier: Apache-2.0
"""A node with real VMs and real CNI plugins, in a netns of its own, for the benchmarks that start pods.

Client, daemon and its threads share the process, so that what plugins take can be told from what clearpod takes, and
figures are upper bounds. Used by pool.py and burst.py; recovery.py has precedence by it.
"""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cri.config_tables import Vm
from stage1 import engine
from stage1.linux import process
from tests.cri.conftest import Registered, VmWorld
from tests.fakes import places
from tests.fakes.outer_net import BIN_DIR, OuterNet, outer_net

ROOT = Path(__file__).parents[2]
BOOT_S = 250.0
"""A guest that boots with many others beside it takes long."""


def go_first() -> None:
    """Have precedence over what else runs on this machine; the caller starts anew, in a session of its own."""
    have_session()
    put_first(os.getpid())


def have_session() -> None:
    """Execute this program again in a session of its own, unless it has one."""
    if os.getsid(0) != os.getpid():
        os.execvp("setsid", ["setsid", "--wait", *sys.orig_argv])


def put_first(pid: int) -> None:
    """Give the process, and its session, precedence over what else runs on this machine."""
    try:
        Path(f"/proc/{pid}/autogroup").write_text("-19", encoding="ascii")
    except OSError:
        pass  # it has ended, or this kernel has no such groups


class Meter:
    """Stands in `process.run`'s place, and sums up what the plugins took (they have an absolute path), and counts all
    other processes that were started. Of one pod at a time. With `first` they all have precedence, see `go_first`.
    """

    def __init__(self, *, first: bool = False) -> None:
        self._first = first
        self._run, self._spawn = process.run, process.spawn
        process.run, process.spawn = self.run, self.spawn  # type: ignore[assignment]
        self.plugins_ms, self.processes = 0.0, 0

    def reset(self) -> None:
        """Forget what was."""
        self.plugins_ms, self.processes = 0.0, 0

    def spawn(self, argv: list[str], **more: Any) -> int:
        """Start it, and count it unless it is a plugin."""
        self.processes += not argv[0].startswith(BIN_DIR)
        pid = self._spawn(argv, **more)
        if self._first:
            put_first(pid)
        return pid

    def run(self, argv: list[str], **more: Any) -> process.Result:
        """Run it, and count it."""
        begun = time.perf_counter()
        try:
            return self._run(argv, **more)
        finally:
            if argv[0].startswith(BIN_DIR):
                self.plugins_ms += (time.perf_counter() - begun) * 1000

    def close(self) -> None:
        """Put the real ones back."""
        process.run, process.spawn = self._run, self._spawn


@contextmanager
def node(size: int = 0, *, memory_mib: int = 64) -> Iterator[tuple[VmWorld, OuterNet]]:
    """A machine whose daemons keep `size` VMs of so much memory waiting. Nothing of it outlives the block."""
    guest = Path(os.environ.get("CLEARPOD_GUEST_DIR", ROOT / "build" / "guest"))
    with places.short_directory() as directory:
        root = Path(directory)
        with outer_net(root / "host") as net:
            world = VmWorld(root, Registered("", f"{root}/state"), guest)
            world.host = world.host._replace(network=net.settings)
            world.config = world.config.but(vm=Vm(memory_mib=memory_mib, boot_timeout_s=BOOT_S))
            world.warm(size)
            try:
                yield world, net
            finally:
                for place in engine.pod_directories(world.host):
                    engine.clean_up(place)


def spread(values: list[float]) -> dict[str, float]:
    """Median, 95th of a hundred, least and most."""
    ordered = sorted(values)
    at = {"median": 0.5, "p95": 0.95, "least": 0.0, "most": 1.0}
    return {name: round(ordered[min(int(len(ordered) * part), len(ordered) - 1)], 1) for name, part in at.items()}
