# SPDX-License-Identifier: Apache-2.0
"""What tests share that kill a daemon while it makes or copies a guest: a node of small VMs, a counting container."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.fakes import places
from tests.fakes.patience import PATIENCE
from tests.hostile.rig import Caller, Node, node

COUNTER = "i=0; while true; do i=$((i+1)); echo $i >/new; mv /new /at; sleep 0.05; done"
"""A container's script."""


@contextmanager
def small_vms(guest_dir: Path, reference: str, *, more: str = "") -> Iterator[Node]:
    """A node whose VMs, real ones of QEMU, have 64 MiB and a disk of 16; `more` is of its configuration."""
    more += "[vm]\nmemory_mib = 96\nscratch_mib = 16"
    with places.short_directory() as root, node(Path(root), guest_dir, reference, more=more, real="qemu") as made:
        yield made


async def until(is_so: Callable[[], bool]) -> None:
    """Wait for it, and see it soon."""
    async with asyncio.timeout(60 * PATIENCE):
        while not is_so():
            await asyncio.sleep(0.002)


def vmms(vms: Node) -> int:
    """How many of the node run."""
    return sum("qemu-system" in line.split(" ")[0] for line in vms.command.host_state.processes().values())


async def goes_on(cri: Caller, container: str, now: int) -> None:
    """Wait until the container of COUNTER is further than `now`."""
    async with asyncio.timeout(20 * PATIENCE):
        while await count(cri, container) <= now:
            await asyncio.sleep(0.1)


async def count(cri: Caller, container: str) -> int:
    """How far the container of COUNTER is."""
    command = ["sh", "-c", "until [ -e /at ]; do sleep 0.05; done; cat /at"]
    return int((await cri("ExecSync", container_id=container, cmd=command, timeout=60, deadline_s=90)).stdout)
