# SPDX-License-Identifier: Apache-2.0
"""Counters of a node while it is soaked: what must be flat in the end. Looks at /proc and the disk only."""

import asyncio
import os
import statistics
import time
from pathlib import Path
from typing import NamedTuple

from tests.soak.node import Node

EVERY_S = 2.0


class Sample(NamedTuple):
    """One moment, in seconds since the beginning. The daemon's memory and descriptors are 0 while there is none."""

    at_s: float
    rss_mib: float
    descriptors: int
    files: int
    addresses: int


async def watch(node: Node, until_s: float, begun_s: float) -> list[Sample]:
    """A sample every two seconds."""
    result = []
    while time.monotonic() < until_s:
        result.append(await asyncio.to_thread(sample, node, time.monotonic() - begun_s))
        await asyncio.sleep(EVERY_S)
    return result


def sample(node: Node, at_s: float) -> Sample:
    """Now."""
    files = sum(len(names) for top in ("run", "state") for _, _, names in os.walk(node.root / top))
    return Sample(round(at_s, 1), *_daemon(node), files, len(node.leases()))


def _daemon(node: Node) -> tuple[float, int]:
    daemon = node.daemon
    try:
        if daemon is None or "cri" not in Path(f"/proc/{daemon.pid}/cmdline").read_text().split("\0"):
            return 0.0, 0
        status = Path(f"/proc/{daemon.pid}/status").read_text()
        kib = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:"))
        return round(kib / 1024, 1), len(os.listdir(f"/proc/{daemon.pid}/fd"))
    except (OSError, StopIteration):
        return 0.0, 0


def growth_mib(samples: list[Sample], since_s: float) -> float:
    """How much more memory the last daemon has in the end than when it had done its first work."""
    sizes = [one.rss_mib for one in samples if one.at_s >= since_s and one.rss_mib]
    part = max(len(sizes) // 5, 1)
    if len(sizes) < 3 * part:
        return 0.0
    return round(statistics.median(sizes[-part:]) - statistics.median(sizes[part : 2 * part]), 1)
