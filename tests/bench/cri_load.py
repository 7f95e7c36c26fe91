# SPDX-License-Identifier: Apache-2.0
"""`scripts/bench cri_load`: what the daemon's answers cost with many pods, and the memory that it takes.

Lists and statuses with 100 pods, stats of 50, a command in a container, over a real gRPC socket in front of guests that
are threads of this process, so that the figures are upper bounds. Calls of all kinds take turns. Memory is that of a
daemon in a process of its own.
"""

import sys
from pathlib import Path

sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != Path(__file__).parent]  # hides `cri`

import argparse  # noqa: E402
import asyncio  # noqa: E402
import json  # noqa: E402
import statistics  # noqa: E402
import subprocess  # noqa: E402
import time  # noqa: E402
from collections.abc import Awaitable, Callable  # noqa: E402
from typing import Any  # noqa: E402

from tests.bench.cri import make_image  # noqa: E402
from tests.cri.conftest import Client, World  # noqa: E402
from tests.cri.test_recovery import _client, _process  # noqa: E402
from tests.fakes import places  # noqa: E402

BUDGETS = {
    "list_pods_ms": 5.0,
    "list_containers_ms": 5.0,
    "pod_status_ms": 5.0,
    "container_status_ms": 5.0,
    "node_status_ms": 5.0,
    "stats_of_50_ms": 50.0,
    "pod_stats_of_50_ms": 50.0,
    "exec_ms": 10.0,
    "daemon_idle_mb": 80.0,
    "daemon_mb_per_pod": 1.0,
}
"""Medians, and megabytes of PSS. An exec's is what it takes beyond the command itself, run without any container."""
FEW, MANY = 50, 100
PODS_FOR_MEMORY = 12

Calls = dict[str, Callable[[], Awaitable[Any]]]


async def _medians(calls: Calls, rounds: int) -> dict[str, float]:
    """Milliseconds of each call; the calls take turns, so that a slow moment of the machine hits all."""
    samples: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(rounds + 2):
        for name, call in calls.items():
            begun = time.perf_counter()
            await call()
            if number >= 2:
                samples[name].append((time.perf_counter() - begun) * 1000)
    return {name: round(statistics.median(values), 2) for name, values in samples.items()}


async def _add_pods(cri: Client, first: int, last: int) -> tuple[str, str]:
    """Pods with one running container each; returns the last of both."""
    pod = container = ""
    for number in range(first, last):
        labels = {"io.kubernetes.pod.name": f"pod-{number}", "io.kubernetes.pod.namespace": "default"}
        pod = await cri.pod(f"pod-{number}", labels=labels)
        container = await cri.container(pod, "/usr/bin/sleep", "1000", labels=labels)
        await cri("StartContainer", container_id=container)
    return pod, container


async def latencies(place: Path, rounds: int) -> dict[str, float]:
    """Stats with 50 pods, everything else with 100."""
    root = place / "l"
    root.mkdir()
    world = World(root, await make_image(root))
    async with world.daemon() as cri:
        await _add_pods(cri, 0, FEW)
        result = await _medians(
            {
                "stats_of_50_ms": lambda: cri("ListContainerStats"),
                "pod_stats_of_50_ms": lambda: cri("ListPodSandboxStats"),
            },
            rounds,
        )
        pod, container = await _add_pods(cri, FEW, MANY)
        result |= await _medians(
            {
                "list_pods_ms": lambda: cri("ListPodSandbox"),
                "list_containers_ms": lambda: cri("ListContainers"),
                "pod_status_ms": lambda: cri("PodSandboxStatus", pod_sandbox_id=pod),
                "container_status_ms": lambda: cri("ContainerStatus", container_id=container),
                "node_status_ms": lambda: cri("Status"),
                "exec_ms": lambda: cri("ExecSync", container_id=container, cmd=["/bin/true"]),
                "command_ms": lambda: asyncio.to_thread(subprocess.run, ["/bin/true"], check=True),
            },
            rounds,
        )
        result["exec_ms"] = round(max(result["exec_ms"] - result.pop("command_ms"), 0.01), 2)
        for one in (await cri("ListPodSandbox")).items:
            await cri("RemovePodSandbox", pod_sandbox_id=one.id)
    world.vmm.stop()
    return result


async def memory(place: Path) -> dict[str, float]:
    """A daemon of its own without pods, and what each adds."""
    root = place / "m"
    root.mkdir()
    world = World(root, await make_image(root))
    with _process(world) as process:
        cri = await _client(world)
        for _ in range(20):
            await cri("Version")
        idle = _pss_mb(process.pid)
        await _add_pods(cri, 0, PODS_FOR_MEMORY)
        for _ in range(5):
            await cri("ListContainerStats")
        loaded = _pss_mb(process.pid)
        for one in (await cri("ListPodSandbox")).items:
            await cri("RemovePodSandbox", pod_sandbox_id=one.id)
        await cri.close()
    return {"daemon_idle_mb": round(idle, 1), "daemon_mb_per_pod": round((loaded - idle) / PODS_FOR_MEMORY, 2)}


def _pss_mb(pid: int) -> float:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


async def measure(rounds: int) -> dict[str, float]:
    """All figures. The place's name is short, for the sake of unix sockets."""
    with places.short_directory("cpl") as place:
        return await latencies(Path(place), rounds) | await memory(Path(place))


def main() -> int:
    """Print the figures; the exit code says whether all are within their budgets."""
    parser = argparse.ArgumentParser(prog="scripts/bench cri_load", description=__doc__)
    parser.add_argument("--json", action="store_true", help="one JSON object")
    parser.add_argument("--rounds", type=int, default=30, help="calls of each kind (30)")
    args = parser.parse_args()
    result = asyncio.run(measure(args.rounds))
    if args.json:
        print(json.dumps({"pods": MANY, **result, "budgets": BUDGETS}))
    else:
        for name, value in result.items():
            print(f"{name:<22} {value:>8}   budget {BUDGETS[name]}")
    return 0 if all(result[name] <= BUDGETS[name] for name in BUDGETS) else 1


if __name__ == "__main__":
    sys.exit(main())
