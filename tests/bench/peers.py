# SPDX-License-Identifier: Apache-2.0
"""`scripts/bench peers`: clearpod beside Debian's containerd and runc, call by call, on one machine in turns.

Daemons of clearpod without and with a warm pool, and containerd with a state, socket and namespace of its own, serve
one client. `host_ms` is what the daemon, the programs that it starts, and the VMMs beside their vCPUs take of the
processors, `daemon_ms` that without the VMMs; `guest_ms` is what the vCPUs take; the rest of a call waits. All that
containerd, its shims and runc take is on the host. What either does after its answer counts in the next call.
With `--json`:

    {"operations": {"RunPodSandbox": {"clearpod": {"median", "p90", "host_ms", ...}, "pool": ..., "containerd": ...}},
     "times": {"RunPodSandbox": {"clearpod": {"median", "host", "daemon", "host_in_all"}, "pool": ...}}}

`times` are clearpod's as multiples of containerd's: the medians, what both take of the processors, that without the
VMMs, and what clearpod takes of the processors as a multiple of containerd's median.
"""

import sys
from pathlib import Path

sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != Path(__file__).parent]  # hides `cri`

import argparse  # noqa: E402
import asyncio  # noqa: E402
import json  # noqa: E402
import os  # noqa: E402
import statistics  # noqa: E402
from collections.abc import Sequence  # noqa: E402
from contextlib import AsyncExitStack  # noqa: E402
from typing import Any  # noqa: E402

from tests.bench.lib import peers_images, peers_turns  # noqa: E402
from tests.bench.lib.peers_images import Images  # noqa: E402
from tests.bench.lib.peers_runtimes import Runtime, clearpod, containerd  # noqa: E402
from tests.bench.lib.peers_turns import PARTS, QUICK, Sample, Samples, Size  # noqa: E402
from tests.fakes import places  # noqa: E402
from tests.fakes.outer_net import outer_net  # noqa: E402
from tests.fakes.registry import Registry  # noqa: E402

WAITING = 2
"""VMs in the pool."""
NAMES = ("clearpod", "pool", "containerd")


async def measure(size: Size, *, only: str = "") -> dict[str, Any]:
    """The whole report."""
    with places.short_directory("cpp") as directory, outer_net(Path(directory) / "net") as net:
        root = Path(directory)
        with Registry(root / "registry") as registry:
            images = peers_images.pushed(registry, root / "images", mib=4 if size is QUICK else peers_images.MIB)
            async with AsyncExitStack() as stack:
                made = [
                    clearpod("clearpod", images.sample, root=root / "a", net=net),
                    *([clearpod("pool", images.sample, root=root / "b", net=net, pool=WAITING)] if not only else []),
                    containerd(images.sample, root=root / "c", net=net, pause=images.pause),
                ]
                runtimes = [await stack.enter_async_context(one) for one in made]
                for runtime in runtimes:
                    await _warm(runtime, images, has_pods=only != "pulls")
                samples = Samples()
                await peers_turns.all_of(samples, runtimes, size, image=images.large, only=only)
    taken = operations(samples.taken)
    return {"load": round(os.getloadavg()[0], 1), "operations": taken, "times": times(taken), "idle": samples.idle}


async def _warm(runtime: Runtime, images: Images, *, has_pods: bool) -> None:
    """What is done once, such as a bridge, is done."""
    for image in images:
        await runtime.cri("PullImage", image={"image": image}, deadline_s=600)
    if has_pods:
        await runtime.settle()
        await peers_turns.life(Samples(), runtime, -1)
        await runtime.settle()


def operations(taken: dict[str, dict[str, list[Sample]]]) -> dict[str, Any]:
    """Medians and 90th percentiles in milliseconds, and where the time went. Pure."""
    return {name: {one: _of(samples) for one, samples in by.items()} for name, by in taken.items()}


def times(taken: dict[str, dict[str, dict[str, float]]]) -> dict[str, dict[str, dict[str, float]]]:
    """Each operation of clearpod's as multiples of containerd's. Pure."""
    result: dict[str, dict[str, dict[str, float]]] = {}
    for name, by in taken.items():
        if (peer := by.get("containerd")) and peer["median"] and peer["host_ms"]:
            result[name] = {one: _times(by[one], peer) for one in NAMES[:2] if one in by}
    return result


def _times(one: dict[str, float], peer: dict[str, float]) -> dict[str, float]:
    values = {
        "median": one["median"] / peer["median"],
        "host": one["host_ms"] / peer["host_ms"],
        "daemon": one["daemon_ms"] / peer["host_ms"],
        "host_in_all": one["host_ms"] / peer["median"],
    }
    return {name: round(value, 2) for name, value in values.items()}


def _of(samples: Sequence[Sample]) -> dict[str, float]:
    walls = sorted(one.all_ms for one in samples)
    parts = {
        "daemon_ms": statistics.median(one.daemon_ms for one in samples),
        "host_ms": statistics.median(one.host_ms for one in samples),
        "guest_ms": statistics.median(one.guest_ms for one in samples),
        "waiting_ms": statistics.median(max(one.all_ms - one.host_ms - one.guest_ms, 0) for one in samples),
    }
    whole = {"median": statistics.median(walls), "p90": walls[min(int(len(walls) * 0.9), len(walls) - 1)]}
    return {name: round(value, 2) for name, value in (whole | parts).items()}


def text(report: dict[str, Any]) -> str:
    """A table for people: medians, host's part in brackets, and the ratio to containerd."""
    lines = [f"load {report['load']}; median ms (processor time on the host; the daemon's); times containerd"]
    lines.append(f"{'':<22}" + "".join(f"{name:>24}" for name in NAMES) + f"{'times':>8}{'pool':>8}")
    for name, by in report["operations"].items():
        cells = [_cells(by[one]) if one in by else "-" for one in NAMES]
        lines.append(f"{name:<22}" + "".join(f"{cell:>24}" for cell in cells) + "".join(map(_cell, ratios(by))))
    return "\n".join([*lines, *(f"idle {name}: {values}" for name, values in report["idle"].items())])


def ratios(by: dict[str, dict[str, float]]) -> tuple[float | None, float | None]:
    """Of the medians to containerd's: without and with a pool."""
    peer = by.get("containerd", {}).get("median")
    without, pool = (by[one]["median"] / peer if peer and one in by else None for one in NAMES[:2])
    return without, pool


def _cells(one: dict[str, float]) -> str:
    return f"{one['median']:.1f} ({one['host_ms']:.1f}; {one['daemon_ms']:.1f})"


def _cell(ratio: float | None) -> str:
    return f"{'-' if ratio is None else f'{ratio:.2f}':>8}"


def main() -> int:
    """Print the report."""
    parser = argparse.ArgumentParser(prog="scripts/bench peers", description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--json", action="store_true", help="one JSON object")
    parser.add_argument("--quick", action="store_true", help="few repetitions, a small image, 4 MB of logs")
    parser.add_argument("--only", default="", choices=PARTS, help="one part, without the pool")
    args = parser.parse_args()
    result = asyncio.run(measure(QUICK if args.quick else Size(), only=args.only))
    print(json.dumps(result) if args.json else text(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
