# SPDX-License-Identifier: Apache-2.0
"""`scripts/bench cri`: what the daemon adds to the start of a pod, everything but the boot.

RunPodSandbox, CreateContainer and StartContainer over a real gRPC socket, with real directories, mounts and images, in
front of a guest that boots in an instant. Client, daemon and guest share this process, so the figure is an upper bound.
"""

import sys
from pathlib import Path

sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != Path(__file__).parent]  # hides `cri`

import argparse  # noqa: E402
import asyncio  # noqa: E402
import itertools  # noqa: E402
import json  # noqa: E402
import statistics  # noqa: E402
import time  # noqa: E402

from cri.config import Config  # noqa: E402
from cri.image.pull import pull  # noqa: E402
from cri.store.images import ImageStore  # noqa: E402
from tests.cri.conftest import Client, Registered, World  # noqa: E402
from tests.fakes import places  # noqa: E402
from tests.fakes.oci_layout import Layer, Layout, directory, tar  # noqa: E402

BUDGET_MS = 60


async def make_image(place: Path) -> Registered:
    layout = Layout(place / "layout")
    tagged = layout.tag("1", layout.image([Layer(tar([directory("./"), directory("etc/")]))]))
    store = ImageStore(f"{place}/state")
    image = await pull(store, tagged, config=Config())
    store.close()
    return Registered(image.id, f"{place}/state")


async def _pod(cri: Client, name: str) -> dict[str, float]:
    """Milliseconds of each step of one pod."""
    at = [time.perf_counter()]
    pod = await cri.pod(name, log_directory=f"{cri.node.config.run_dir}/logs")
    at.append(time.perf_counter())
    container = await cri.container(pod, "/usr/bin/sleep", "1000")
    at.append(time.perf_counter())
    await cri("StartContainer", container_id=container)
    at.append(time.perf_counter())
    steps = [(after - before) * 1000 for before, after in itertools.pairwise(at)]
    await cri("RemovePodSandbox", pod_sandbox_id=pod)
    return dict(zip(("run", "create", "start", "all"), [*steps, (at[3] - at[0]) * 1000], strict=True))


async def measure(place: Path, rounds: int) -> dict[str, object]:
    """Run `rounds` pods one after the other, after a few to warm up."""
    root = place / "w"
    root.mkdir()
    world = World(root, await make_image(place))
    async with world.daemon() as cri:
        for number in range(3):
            await _pod(cri, f"warm-{number}")
        samples = [await _pod(cri, f"pod-{number}") for number in range(rounds)]
    world.vmm.stop()
    result: dict[str, object] = {"pods": rounds, "budget_ms": BUDGET_MS, "pod_start_overhead_ms": _of(samples, "all")}
    return result | {f"{step}_ms": _of(samples, step) for step in ("run", "create", "start")}


async def measure_here(rounds: int) -> dict[str, object]:
    """As `measure`, in a place that is gone afterwards. Its name is short, for the sake of unix sockets."""
    with places.short_directory("cpb") as place:
        return await measure(Path(place), rounds)


def _of(samples: list[dict[str, float]], step: str) -> dict[str, float]:
    values = sorted(sample[step] for sample in samples)
    return {
        "median": round(statistics.median(values), 1),
        "p90": round(values[int(len(values) * 0.9)], 1),
        "least": round(values[0], 1),
    }


def main() -> int:
    """Print the figures; the exit code says whether the median is within the budget."""
    parser = argparse.ArgumentParser(prog="scripts/bench cri", description=__doc__)
    parser.add_argument("--json", action="store_true", help="one JSON object, with what `cri_load` measures")
    parser.add_argument("--pods", type=int, default=30, help="how many (30)")
    args = parser.parse_args()
    result = asyncio.run(measure_here(args.pods))
    overhead = result["pod_start_overhead_ms"]
    assert isinstance(overhead, dict)
    if args.json:
        from tests.bench import cri_load

        print(json.dumps(result | {"load": asyncio.run(cri_load.measure(args.pods))}))
    else:
        for step in ("run", "create", "start"):
            print(f"{step:<8} {result[f'{step}_ms']}")
        print(f"together {overhead}, budget {BUDGET_MS} ms for the median")
    return 0 if overhead["median"] <= BUDGET_MS else 1


if __name__ == "__main__":
    sys.exit(main())
