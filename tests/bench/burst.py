# SPDX-License-Identifier: Apache-2.0
"""`scripts/bench burst`: many pods with real VMs and Debian's plugins, at once and one after the other.

20 RunPodSandbox at once, without a warm pool: how long each takes from the common beginning, and how far the slowest
are from the middle. Then 200 in sequence: whether the last are slower than the first, and whether anything is left.
`--idle N` keeps N pods alive instead, doing nothing for some minutes while a kubelet's PLEG lists them each second, and
looks whether all of them still answer.
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
from typing import Any  # noqa: E402

from stage1 import engine  # noqa: E402
from stage1.guest import messages  # noqa: E402
from tests.bench.vm_node import node, spread  # noqa: E402
from tests.cri.conftest import Client, VmWorld  # noqa: E402
from tests.fakes.host_state import HostState  # noqa: E402

BUDGET_SPREAD, BUDGET_DRIFT, BUDGET_RELIST_MS = 3, 2, 30.0
CALL_S = 600


async def _run(cri: Client, name: str) -> str:
    reply = await cri("RunPodSandbox", config=cri.sandbox(name), deadline_s=CALL_S)
    return str(reply.pod_sandbox_id)


async def _remove(cri: Client, pod: str) -> None:
    await cri("RemovePodSandbox", pod_sandbox_id=pod, deadline_s=CALL_S)


async def at_once(count: int, size: int) -> dict[str, Any]:
    """Start so many pods together; with `size`, so many VMs wait for them."""
    with node(size) as (world, net):
        host_state = HostState(world.root)
        async with world.daemon() as cri:
            await _remove(cri, await _run(cri, "first"))
        before, state = host_state.seen(), net.state()
        async with world.daemon() as cri:
            await cri.warmed(size, limit_s=CALL_S)
            begun = time.perf_counter()

            async def one(number: int) -> tuple[str, float]:
                pod = await _run(cri, f"pod-{number}")
                return pod, time.perf_counter() - begun

            done = await asyncio.gather(*map(one, range(count)), return_exceptions=True)
            made = [one for one in done if not isinstance(one, BaseException)]
            counts = await cri.pool()
            await asyncio.gather(*(_remove(cri, pod) for pod, _ in made))
        left = host_state.added(before, within_s=10)
        leaked = left or net.state() != state
    result = spread([seconds * 1000 for _, seconds in made])
    return {
        "pods": count,
        "from_the_pool": counts["taken"],
        "run_pod_sandbox_ms": result,
        "p95_to_p50": round(result["p95"] / result["median"], 2),
        "failures": [str(one) for one in done if isinstance(one, BaseException)],
        "leaked": bool(leaked),
    }


async def in_sequence(count: int) -> dict[str, Any]:
    """Start and remove so many pods, one after the other."""
    with node() as (world, net):
        host_state, took = HostState(world.root), []
        async with world.daemon() as cri:
            await _remove(cri, await _run(cri, "first"))
            before, state = host_state.seen(), net.state()
            descriptors = len(os.listdir("/proc/self/fd"))
            for number in range(count):
                begun = time.perf_counter()
                await _remove(cri, await _run(cri, f"pod-{number}"))
                took.append((time.perf_counter() - begun) * 1000)
            left = host_state.added(before, within_s=10)
            leaked = left or net.state() != state or len(os.listdir("/proc/self/fd")) > descriptors
    quarter = max(count // 4, 1)
    quarters = [round(statistics.median(took[at : at + quarter]), 1) for at in range(0, count, quarter)]
    return {
        "pods": count,
        "pod_ms": spread(took),
        "quarters_ms": quarters,
        "drift": round(min(quarters[1:] or quarters) / quarters[0], 2),
        "left": {kind: len(what) for kind, what in left.items()},
        "leaked": bool(leaked),
    }


async def idle(count: int, minutes: float) -> dict[str, Any]:
    """Keep so many pods alive, which do nothing, and ask each guest in the end."""
    with node() as (world, _):
        async with world.daemon() as cri:
            pods = [await _run(cri, f"idle-{number}") for number in range(count)]
            before_s, begun = _cpu_s(world), time.monotonic()
            relists = await _relists(cri, minutes * 60)
            used_s, passed_s = _cpu_s(world) - before_s, time.monotonic() - begun
            ready = [item for item in (await cri("ListPodSandbox")).items if not item.state]
            answers = await asyncio.gather(*(_answers(cri, pod) for pod in pods))
            await asyncio.gather(*(_remove(cri, pod) for pod in pods))
        left = world.left_over()
    return {
        "pods": count,
        "minutes": round(passed_s / 60, 1),
        "ready": len(ready),
        "answered": sum(answers),
        "relist_ms": spread(relists),
        "cpu_percent_per_pod": round(100 * used_s / passed_s / count, 2),
        "leaked": left != [],
    }


async def _relists(cri: Client, during_s: float) -> list[float]:
    """Both lists each second, as a kubelet's PLEG asks for them: milliseconds of each pair."""
    until, result = time.monotonic() + during_s, []
    while time.monotonic() < until:
        begun = time.perf_counter()
        await cri("ListPodSandbox")
        await cri("ListContainers")
        result.append((time.perf_counter() - begun) * 1000)
        await asyncio.sleep(1)
    return result


async def _answers(cri: Client, pod: str) -> bool:
    """Whether the guest itself still speaks."""
    reply = await cri.node.pods.get(pod).call(messages.Stats(), timeout_s=CALL_S)
    return reply.pod is not None


def _cpu_s(world: VmWorld) -> float:
    """What all VMMs have used so far."""
    ticks = 0
    for directory in engine.pod_directories(world.host):
        if vm := engine.find_vm(directory):
            fields = Path(f"/proc/{vm.pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def is_kept(measured: dict[str, Any]) -> bool:
    """Whether the budgets are."""
    if idled := measured.get("idle"):
        is_quick = idled["relist_ms"]["median"] <= BUDGET_RELIST_MS
        return bool(is_quick and idled["ready"] == idled["answered"] == idled["pods"] and not idled["leaked"])
    burst, drifted = measured["at_once"], measured["in_sequence"]
    is_even = not burst["failures"] and burst["p95_to_p50"] <= BUDGET_SPREAD
    return is_even and drifted["drift"] <= BUDGET_DRIFT and not burst["leaked"] and not drifted["leaked"]


async def measure(args: argparse.Namespace) -> dict[str, Any]:
    """The whole report."""
    result: dict[str, Any] = {"cpus": os.cpu_count(), "load": round(os.getloadavg()[0], 1)}
    if args.idle:
        return result | {"idle": await idle(args.idle, args.minutes)}
    result["at_once"] = await at_once(args.pods, args.warm)
    return result | {"in_sequence": await in_sequence(args.sequence)}


def main() -> int:
    """Print the report; the exit code says whether the budgets are kept."""
    parser = argparse.ArgumentParser(prog="scripts/bench burst", description=__doc__)
    parser.add_argument("--json", action="store_true", help="one JSON object")
    parser.add_argument("--pods", type=int, default=20, help="how many at once (20)")
    parser.add_argument("--warm", type=int, default=0, help="VMs that wait for them (0)")
    parser.add_argument("--sequence", type=int, default=200, help="how many one after the other (200)")
    parser.add_argument("--idle", type=int, default=0, help="instead, so many that do nothing")
    parser.add_argument("--minutes", type=float, default=10, help="for so long (10)")
    result = asyncio.run(measure(args := parser.parse_args()))
    if args.json:
        print(json.dumps(result))
    else:
        for name, value in result.items():
            print(f"{name:<12} {value}")
    return 0 if is_kept(result) else 1


if __name__ == "__main__":
    sys.exit(main())
