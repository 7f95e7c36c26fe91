# SPDX-License-Identifier: Apache-2.0
"""Seconds until a command in a new pod has written something, for `scripts/bench density --peer`. Called by density.py.

A daemon runs already; the clock starts with RunPodSandbox and stops when the word is in the container's log, so that
it holds the VM, the container and the way out. Each pod is the first of its own run: there is no warm pool.
"""

import asyncio
import statistics
import time
from pathlib import Path
from typing import Any

from tests.bench.lib import pods
from tests.bench.lib.pods import Setup
from tests.cri.conftest import Client
from tests.fakes.patience import PATIENCE

STARTS = 5
POLL_S = 0.005
LIMIT_S = 60.0
WORD = "hello"


async def measure(setup: Setup) -> dict[str, Any]:
    """Seconds of each start, after one that made the daemon load its code. Raises TimeoutError."""
    async with pods.place(setup) as place, pods.loaded(place) as process, pods.daemon(place, process) as cri:
        seconds = [await _start(cri, place.root, f"first{number}") for number in range(STARTS + 1)][1:]
        result = {"hypervisor": place.choice.hypervisor.name, "count": STARTS, "memory_mib": setup.memory_mib}
    return result | {
        "first_output_s": [round(value, 2) for value in seconds],
        "first_output_median_s": round(statistics.median(seconds), 2),
    }


async def _start(cri: Client, root: Path, name: str) -> float:
    logs = root / name
    logs.mkdir()
    begun = time.monotonic()
    pod = await cri.pod(name, log_directory=str(logs))
    container = await cri.container(pod, "busybox", "echo", WORD, log_path="log")
    await cri("StartContainer", container_id=container)
    async with asyncio.timeout(LIMIT_S * PATIENCE):
        while WORD not in _text(logs / "log"):
            await asyncio.sleep(POLL_S)
    took_s = time.monotonic() - begun
    await cri("RemovePodSandbox", pod_sandbox_id=pod)
    return took_s


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.exists() else ""
