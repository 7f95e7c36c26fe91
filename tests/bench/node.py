# SPDX-License-Identifier: Apache-2.0
"""`scripts/bench node`: a large node under the load of a kubelet.

500 pods of one container each, then for ten minutes what a kubelet asks for: both lists each second (PLEG), statistics
of everything each 10 s, the node's status each 5 s, and 20 pods a minute that come while the oldest goes. The daemon is
a process of its own behind its real socket, its guests are instant fakes in another, and this one has the client only.
With `--json`:

    {"list_pods_ms": {"median", "p95"}, "list_containers_ms": ..., "stats_ms": ..., "daemon_cpu_percent", "rss_mib"}
"""

import sys
from pathlib import Path

sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != Path(__file__).parent]  # hides `cri`

import argparse  # noqa: E402
import asyncio  # noqa: E402
import json  # noqa: E402
import os  # noqa: E402
import resource  # noqa: E402
import statistics  # noqa: E402
import time  # noqa: E402
from asyncio.subprocess import DEVNULL  # noqa: E402
from collections.abc import Awaitable, Callable  # noqa: E402
from typing import Any  # noqa: E402

from tests.bench.cri import make_image  # noqa: E402
from tests.bench.lib.instant_node import guests_apart  # noqa: E402
from tests.cri.conftest import Client, World  # noqa: E402
from tests.cri.test_recovery import _client  # noqa: E402
from tests.fakes import places  # noqa: E402

PODS, MINUTES, STARTS_PER_MINUTE = 500, 10.0, 20
BUDGETS = {"list_pods_ms": 10.0, "list_containers_ms": 10.0, "daemon_cpu_percent": 10.0}
"""Medians in milliseconds, and percent of one processor."""
TICKS = os.sysconf("SC_CLK_TCK")


class Load:
    """A kubelet's calls, and how long each took."""

    def __init__(self, cri: Client, until: float) -> None:
        self._cri, self._until = cri, until
        self.pods: list[str] = []
        self._number = 0
        self.times: dict[str, list[float]] = {}

    async def add(self) -> None:
        """One more pod with one container that runs."""
        self._number += 1
        labels = {"io.kubernetes.pod.name": f"pod-{self._number}", "io.kubernetes.pod.namespace": "default"}
        pod = await self._cri.pod(f"pod-{self._number}", labels=labels)
        container = await self._cri.container(pod, "/usr/bin/sleep", "100000", labels=labels)
        await self._cri("StartContainer", container_id=container)
        self.pods.append(pod)

    async def replace(self) -> None:
        """A pod comes, and the oldest goes."""
        await self.add()
        await self._cri("StopPodSandbox", pod_sandbox_id=self.pods[0])
        await self._cri("RemovePodSandbox", pod_sandbox_id=self.pods.pop(0))

    async def call(self, name: str) -> None:
        """One call without arguments."""
        await self._cri(name)

    async def every(self, pause_s: float, what: str, call: Callable[[], Awaitable[Any]]) -> None:
        """Do it at fixed times until the end."""
        samples, due = self.times.setdefault(what, []), time.monotonic()
        while due < self._until:
            await asyncio.sleep(max(due - time.monotonic(), 0))
            begun = time.perf_counter()
            await call()
            samples.append((time.perf_counter() - begun) * 1000)
            due = max(due + pause_s, time.monotonic())

    async def relist(self) -> None:
        """What PLEG does, each list by its own name."""
        for name, what in (("ListPodSandbox", "list_pods_ms"), ("ListContainers", "list_containers_ms")):
            begun = time.perf_counter()
            await self.call(name)
            self.times.setdefault(what, []).append((time.perf_counter() - begun) * 1000)

    async def statistics(self) -> None:
        """What the kubelet's summary asks for."""
        await self.call("ListContainerStats")
        await self.call("ListPodSandboxStats")
        await self.call("ImageFsInfo")


async def measure(pods: int, minutes: float) -> dict[str, Any]:
    """All figures. The place's name is short, for the sake of unix sockets."""
    with places.short_directory("cpn") as place:
        world = World(Path(place), await make_image(Path(place)))
        argv = [sys.executable, "-m", "tests.bench.lib.instant_node", place, world.config.state_dir]
        with guests_apart(place):
            daemon = await asyncio.create_subprocess_exec(*argv, stdin=DEVNULL, stderr=DEVNULL)
            try:
                return await _loaded(await _client(world), daemon.pid, pods=pods, minutes=minutes)
            finally:
                daemon.terminate()
                await daemon.wait()


async def _loaded(cri: Client, pid: int, *, pods: int, minutes: float) -> dict[str, Any]:
    load = Load(cri, 0)
    for _ in range(pods):
        await load.add()
    load._until = time.monotonic() + minutes * 60
    before, begun = cpu_s(pid), time.monotonic()
    await asyncio.gather(
        load.every(1, "relist_ms", load.relist),
        load.every(10, "stats_ms", load.statistics),
        load.every(5, "status_ms", lambda: load.call("Status")),
        load.every(60 / STARTS_PER_MINUTE, "replace_ms", load.replace),
    )
    used = (cpu_s(pid) - before) / (time.monotonic() - begun)
    rss = _rss_mib(pid)
    for pod in load.pods:
        await cri("RemovePodSandbox", pod_sandbox_id=pod)
    await cri.close()
    result: dict[str, Any] = {name: _of(samples) for name, samples in sorted(load.times.items())}
    return {"pods": pods, **result, "daemon_cpu_percent": round(used * 100, 1), "rss_mib": rss}


def _of(samples: list[float]) -> dict[str, float]:
    return {
        "median": round(statistics.median(samples), 2),
        "p95": round(statistics.quantiles(samples, n=20)[-1] if len(samples) > 1 else samples[0], 2),
    }


def cpu_s(pid: int) -> float:
    """Processor time of the daemon itself, without that of programs it has started."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def _rss_mib(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    return round(next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:")) / 1024, 1)


def exceeded(measured: dict[str, Any]) -> dict[str, float]:
    """What is over its budget."""
    values = {
        name: measured[name]["median"] if isinstance(measured[name], dict) else measured[name] for name in BUDGETS
    }
    return {name: value for name, value in values.items() if value > BUDGETS[name]}


def main() -> int:
    """Print the figures; the exit code is 0 if all are within their budgets."""
    parser = argparse.ArgumentParser(prog="scripts/bench node", description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--json", action="store_true", help="one JSON object")
    parser.add_argument("--pods", type=int, default=PODS, help=f"how many ({PODS})")
    parser.add_argument("--minutes", type=float, default=MINUTES, help=f"of load ({MINUTES:g})")
    args = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # each guest has some
    result = asyncio.run(measure(args.pods, args.minutes))
    if args.json:
        print(json.dumps(result))
    else:
        for name, value in result.items():
            print(f"{name:<20} {value}" + (f"   budget {BUDGETS[name]}" if name in BUDGETS else ""))
    return 1 if exceeded(result) else 0


if __name__ == "__main__":
    sys.exit(main())
