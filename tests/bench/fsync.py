# SPDX-License-Identifier: Apache-2.0
"""`scripts/bench fsync`: what it costs that images and records outlive a power cut.

Starts of pods (instant guests, fake plugins, a real ext4) and pulls take turns with fsync and with one that does
nothing. The first figures are how often a start of a pod syncs and how long it waits for that; the others are medians
of all, with and without, and of the differences in pairs, in which a busy machine drowns the rest.
"""

import sys
from pathlib import Path

sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != Path(__file__).parent]  # hides `cri`

import argparse  # noqa: E402
import asyncio  # noqa: E402
import contextlib  # noqa: E402
import importlib.util  # noqa: E402
import json  # noqa: E402
import os  # noqa: E402
import statistics  # noqa: E402
import time  # noqa: E402
from collections.abc import Iterator  # noqa: E402
from unittest import mock  # noqa: E402

from cri.config import Config  # noqa: E402
from cri.image.pull import pull  # noqa: E402
from cri.store.images import ImageStore  # noqa: E402
from tests.cri.conftest import World  # noqa: E402
from tests.fakes import places  # noqa: E402
from tests.fakes.cni import FakeCni  # noqa: E402
from tests.fakes.oci_layout import Layer, Layout, directory, file, tar  # noqa: E402

BUDGET_MS, BUDGET_SYNCS = 10.0, 2
_MIB = 1 << 20
_SYNC = os.fsync


class Round:
    """One half of a pair: fsync as it is, or one that is counted only."""

    def __init__(self, is_real: bool) -> None:
        self.is_real, self.count, self.ms, self.sync_ms = is_real, 0, 0.0, 0.0

    @contextlib.contextmanager
    def taken(self) -> Iterator[None]:
        """Time what is done meanwhile."""

        def sync(fd: int) -> None:
            self.count += 1
            begun = time.perf_counter()
            if self.is_real:
                _SYNC(fd)
            self.sync_ms += (time.perf_counter() - begun) * 1000

        with mock.patch("os.fsync", sync):
            begun = time.perf_counter()
            yield
            self.ms = (time.perf_counter() - begun) * 1000


def _of(samples: list[Round]) -> dict[str, float]:
    real, unreal = ([one.ms for one in samples if one.is_real is kind] for kind in (True, False))
    with_it, without = statistics.median(real), statistics.median(unreal)
    added = statistics.median(a - b for a, b in zip(real, unreal, strict=True))
    syncs = max(one.count for one in samples)
    waits = statistics.median(one.sync_ms for one in samples if one.is_real)
    figures = {"sync_ms": waits, "with_ms": with_it, "without_ms": without, "added_ms": added}
    return {"syncs": syncs, "ratio": round(with_it / without, 2)} | {k: round(v, 2) for k, v in figures.items()}


async def starts(place: Path, rounds: int) -> dict[str, float]:
    """RunPodSandbox + CreateContainer + StartContainer of pods with a network."""
    spec = importlib.util.spec_from_file_location("bench_cri", Path(__file__).with_name("cri.py"))
    assert spec and spec.loader
    bench = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(bench)
    (root := place / "w").mkdir()
    world = World(root, await bench.make_image(place))
    world.host = world.host._replace(network=FakeCni(root / "cni").settings)
    samples = [Round(is_real=number % 2 == 0) for number in range(2 * rounds)]
    async with world.daemon() as cri:
        for number, one in enumerate([Round(is_real=True), *samples]):
            with one.taken():
                pod = await cri.pod(f"p{number}", log_directory=f"{root}/logs")
                made = await cri.container(pod, "/usr/bin/sleep", "1000")
                await cri("StartContainer", container_id=made)
            await cri("RemovePodSandbox", pod_sandbox_id=pod)
            await cri.node.verifier.settled()
    world.vmm.stop()
    return _of(samples)


async def pulls(place: Path, rounds: int, *, mib: int) -> dict[str, float]:
    """Pulls of an image with two layers of `mib` MiB together, from a layout."""
    layout = Layout(place / "pulled")
    layers = [Layer(tar([directory("./"), file(name, os.urandom(mib * _MIB // 2))]), "") for name in "ab"]
    tagged = layout.tag("1", layout.image(layers))
    store = ImageStore(f"{place}/pulls")
    samples = [Round(is_real=number % 2 == 0) for number in range(2 * rounds)]
    for one in samples:
        with one.taken():
            image = await pull(store, tagged, config=Config())
        store.remove(image.id)
        os.sync()
    store.close()
    return _of(samples)


async def starts_here(rounds: int) -> dict[str, float]:
    """As `starts`, on the disk that /tmp is on, in a place that is gone afterwards."""
    with places.short_directory("cpf") as place:
        return await starts(Path(place), rounds)


async def pulls_here(rounds: int, *, mib: int = 64) -> dict[str, float]:
    """As `pulls`, at the same kind of place."""
    with places.short_directory("cpf") as place:
        return await pulls(Path(place), rounds, mib=mib)


def main() -> int:
    """Print the figures; the exit code is 0 if a start is within the budget."""
    parser = argparse.ArgumentParser(prog="scripts/bench fsync", description=__doc__)
    parser.add_argument("--json", action="store_true", help="one JSON object")
    parser.add_argument("--rounds", type=int, default=30, help="pairs of starts (30)")
    args = parser.parse_args()
    start = asyncio.run(starts_here(args.rounds))
    result = {"start": start, "pull": asyncio.run(pulls_here(max(3, args.rounds // 5)))}
    print(json.dumps(result) if args.json else "\n".join(f"{name}: {figures}" for name, figures in result.items()))
    return 0 if start["sync_ms"] <= BUDGET_MS and start["syncs"] <= BUDGET_SYNCS else 1


if __name__ == "__main__":
    sys.exit(main())
