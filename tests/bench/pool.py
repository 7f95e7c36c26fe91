# SPDX-License-Identifier: Apache-2.0
"""`scripts/bench pool`: RunPodSandbox out of the warm pool, with real VMs and Debian's plugins.

Milliseconds of the call as its client sees them, less what the CNI plugins took; one pod after the other, each when the
pool is full. Beside it the memory of a VM that waits: what no other process shares, on this host and nothing merged; or
with `--lab` under kvmtool with everything on, KSM and DAX, which `--memory N` measures there.
"""

import sys
from pathlib import Path

sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != Path(__file__).parent]  # hides `cri`

import argparse  # noqa: E402
import asyncio  # noqa: E402
import json  # noqa: E402
import os  # noqa: E402
import statistics  # noqa: E402
import time  # noqa: E402
from typing import Any, NamedTuple  # noqa: E402

from stage1 import engine  # noqa: E402
from stage1.linux.ksm import Ksm  # noqa: E402
from tests.bench.lib import census, footprint, in_lab, pods  # noqa: E402
from tests.bench.lib.journal import Journal  # noqa: E402
from tests.bench.lib.pods import Setup  # noqa: E402
from tests.bench.vm_node import Meter, go_first, node, spread  # noqa: E402
from tests.cri.conftest import Client, VmWorld  # noqa: E402
from tests.lab.state import LabError  # noqa: E402

BUDGET_MS, BUDGET_PROCESSES = 15, 0
WAIT_S = 600
IN_LAB = 20
"""So many VMs wait there."""
KSM_LIMIT_S, KSM_PERCENT = 400, 50
MEMORY = "memory"


class Sample(NamedTuple):
    """One RunPodSandbox: milliseconds in all and in plugins, and how many processes were started beside them; then the
    plugins' milliseconds of the pod's removal.
    """

    all_ms: float
    plugins_ms: float
    processes: int
    removal_ms: float


async def _pod(cri: Client, meter: Meter, name: str) -> Sample:
    meter.reset()
    begun = time.perf_counter()
    pod = await cri.pod(name)
    all_ms = (time.perf_counter() - begun) * 1000
    plugins_ms, processes = meter.plugins_ms, meter.processes
    await cri("RemovePodSandbox", pod_sandbox_id=pod)
    return Sample(all_ms, plugins_ms, processes, meter.plugins_ms - plugins_ms)


def unique_mib(world: VmWorld) -> list[float]:
    """Of each VMM, what is in memory for it alone."""
    result = []
    for directory in engine.pod_directories(world.host):
        vm = engine.find_vm(directory)
        if vm is not None:
            lines = Path(f"/proc/{vm.pid}/smaps_rollup").read_text(encoding="utf-8").splitlines()
            private = [int(line.split()[1]) for line in lines if line.startswith("Private_")]
            result.append(sum(private) / 1024)
    return result


async def measure(rounds: int, size: int, *, first: bool = False) -> dict[str, Any]:
    """The whole report, from so many pods after a first one, which makes the bridge."""
    with node(size) as (world, net):
        meter = Meter(first=first)
        try:
            async with world.daemon() as cri:
                await cri.warmed(size, limit_s=WAIT_S)
                await _pod(cri, meter, "first")
            before, samples = net.state(), []
            async with world.daemon() as cri:
                for number in range(rounds):
                    await cri.warmed(size, limit_s=WAIT_S)
                    samples.append(await _pod(cri, meter, f"pod-{number}"))
                await cri.warmed(size, limit_s=WAIT_S)
                memory, counts = unique_mib(world), await cri.pool()
            leaked = net.state() != before or world.left_over() != []
        finally:
            meter.close()
    return {
        "pods": rounds,
        "waiting": size,
        "accelerator": world.host.choice.accel,
        "first": first,
        "load": round(os.getloadavg()[0], 1),
        "run_pod_sandbox_ms": spread([one.all_ms - one.plugins_ms for one in samples])
        | {"processes": max(one.processes for one in samples)},
        "with_plugins_ms": spread([one.all_ms for one in samples]),
        "plugins_ms": spread([one.plugins_ms for one in samples]),
        "removal_plugins_ms": spread([one.removal_ms for one in samples]),
        "unique_mib_per_pod": {"median": round(statistics.median(memory), 1), "where": "of this host, nothing merged"},
        "missed": counts["missed"],
        "died": counts["died"],
        "leaked": leaked,
        "budget": {"ms": BUDGET_MS, "processes": BUDGET_PROCESSES},
    }


async def memory(count: int) -> dict[str, Any]:
    """What each of so many VMs that wait has for itself, once the daemon has merged them."""
    async with pods.place(Setup(ksm_percent=KSM_PERCENT, waiting=count)) as place:
        empty = footprint.host()
        async with pods.loaded(place, ksm=True) as process, pods.daemon(place, process) as cri:
            await cri.warmed(count, limit_s=WAIT_S)
            result = await census.until_calm(place, count, empty=empty, limit_s=KSM_LIMIT_S)
    return {
        "median": result["median_unique"],
        "most": result["most_unique"],
        "pods": count,
        "hypervisor": place.choice.hypervisor.name,
        "after_s": result["seconds"],
        "ksmd_s": result["ksmd_s"],
        "where": "merged by KSM",
    }


def kept_memory(count: int, path: Path | None) -> dict[str, Any]:
    """The same, written down; KSM is as before also when the daemon was killed."""
    before = Ksm().settings()
    try:
        result = asyncio.run(memory(count))
    finally:
        Ksm().apply(before)
    Journal(path).add(MEMORY, result)
    return result


def memory_in_lab(paths: list[str]) -> dict[str, Any]:
    """The same under kvmtool. Raises LabError."""
    kept = in_lab.journal(None, "pool")
    result: dict[str, Any] = in_lab.run("pool", [f"--memory={IN_LAB}"], rows=[MEMORY], kept=kept, paths=paths).find(
        MEMORY
    )
    return result | {"where": "in the lab, KSM and DAX on"}


def is_kept(measured: dict[str, Any]) -> bool:
    """Whether the budget is."""
    ran = measured["run_pod_sandbox_ms"]
    is_whole = not (measured["missed"] or measured["died"] or measured["leaked"])
    return is_whole and ran["median"] <= BUDGET_MS and ran["processes"] <= BUDGET_PROCESSES


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="scripts/bench pool", description=__doc__)
    parser.add_argument("--json", action="store_true", help="one JSON object")
    parser.add_argument("--pods", type=int, default=50, help="how many (50)")
    parser.add_argument("--size", type=int, default=3, help="how many VMs wait (3)")
    parser.add_argument("--first", action="store_true", help="for a busy machine: with precedence over what else runs")
    parser.add_argument("--lab", action="store_true", help="the memory under kvmtool, in the lab, with everything on")
    parser.add_argument("--path", action="append", default=[], metavar="DIR", help="where lkvm is, for --lab")
    parser.add_argument("--memory", type=int, default=0, metavar="N", help="only the memory of N VMs, merged")
    parser.add_argument("--journal", type=Path, metavar="FILE", help="keep the result of --memory there")
    return parser.parse_args()


def main() -> int:
    """Print the report; the exit code says whether the budget is kept, 2 when the lab could not be used."""
    args = parse()
    if args.first:
        go_first()
    if args.memory:
        print(json.dumps(kept_memory(args.memory, args.journal)))
        return 0
    try:
        more = {"unique_mib_per_pod": memory_in_lab(args.path)} if args.lab else {}
    except LabError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    result = asyncio.run(measure(args.pods, args.size, first=args.first)) | more
    print(json.dumps(result) if args.json else text(result))
    return 0 if is_kept(result) else 1


def text(measured: dict[str, Any]) -> str:
    """The report for people."""
    return "\n".join(
        (
            f"RunPodSandbox, beside the plugins  {measured['run_pod_sandbox_ms']} ms; budget {measured['budget']}",
            f"with the plugins                   {measured['with_plugins_ms']} ms",
            f"memory of a VM that waits          {measured['unique_mib_per_pod']} MiB",
            f"load {measured['load']}, "
            f"missed {measured['missed']}, died {measured['died']}, leaked {measured['leaked']}",
        )
    )


if __name__ == "__main__":
    sys.exit(main())
