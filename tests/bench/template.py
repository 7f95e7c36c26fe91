# SPDX-License-Identifier: Apache-2.0
"""`scripts/bench template`: RunPodSandbox and guest memory of pods that boot, that are copies of a template, and that
waited in a pool of copies; real VMs of QEMU, Debian's plugins, KSM off.

Milliseconds of the call as its client sees them, less what the CNI plugins took, one pod after the other; ratios are
beside QEMU's own start, from its exec to the greeting of its monitor, in the same run. Memory is what a guest's memory
has for itself when its pod is ready, and after the first exec in the pod's container, whose milliseconds count, too.
"""

import sys
from pathlib import Path

sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != Path(__file__).parent]  # hides `cri`

import argparse  # noqa: E402
import asyncio  # noqa: E402
import json  # noqa: E402
import os  # noqa: E402
import re  # noqa: E402
import statistics  # noqa: E402
import subprocess  # noqa: E402
import time  # noqa: E402
from typing import Any, NamedTuple  # noqa: E402

from cri.config import Config  # noqa: E402
from cri.config_tables import Templates  # noqa: E402
from cri.store.images import ImageStore  # noqa: E402
from tests.bench import forks  # noqa: E402
from tests.bench.vm_node import Meter, node  # noqa: E402
from tests.cri.conftest import Client, VmWorld  # noqa: E402
from tests.fakes.pulled import pull_blocking  # noqa: E402
from tests.fakes.registry import Registry  # noqa: E402

MEMORY_MIB = 128
WAIT_S = 600
STARTED_S = 0.5
"""So long a container's program may take to read itself, before the exec that is measured."""
BUDGET = {"private_mib": 3.0, "shared": 0.2, "start": 0.35, "at_once": 0.4, "exec": 1.2, "pause_ms": 150, "copy": 0.5}
_MAPPING = re.compile(r"^[0-9a-f]+-[0-9a-f]+ ")


class Burst(NamedTuple):
    """Pods that began at once: milliseconds until all were ready, processor time of their VMMs until then, their
    memory then and after a first exec in each, and the milliseconds of that."""

    took_ms: float
    cpu_ms: list[float]
    ready: "list[Memory]"
    memory: "list[Memory]"
    exec_ms: list[float]


class Memory(NamedTuple):
    """Of a guest's memory in its VMM, in KiB: what was written, and the proportional part of what is shared."""

    private: int
    pss: int


def guest_memory(pid: int, size_mib: int = MEMORY_MIB) -> Memory:
    """Of the mapping that has the size of the guest's memory."""
    largest, size, private, pss = Memory(0, 0), 0, 0, 0
    for line in [*Path(f"/proc/{pid}/smaps").read_text(encoding="utf-8").splitlines(), "0-0 end"]:
        if _MAPPING.match(line):
            if size == size_mib * 1024 and pss > largest.pss:
                largest = Memory(private, pss)
            size = private = pss = 0
            continue
        name, _, value = line.partition(":")
        if name in ("Size", "Anonymous", "Pss"):
            kib = int(value.split()[0])
            size, private, pss = (
                kib if name == "Size" else size,
                kib if name == "Anonymous" else private,
                kib if name == "Pss" else pss,
            )
    return largest


def vmm_cpu_ms(pid: int) -> float:
    """What the process has taken of processors."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * 1000 / os.sysconf("SC_CLK_TCK")


def qemu_ms(binary: str) -> float:
    """From the exec of QEMU to its monitor's greeting, with the machine that pods have and no guest."""
    argv = [binary, "-nodefaults", "-no-user-config", "-display", "none", "-S", "-qmp", "stdio"]
    argv += ["-machine", "microvm,acpi=off", "-accel", "tcg", "-cpu", "max", "-m", str(MEMORY_MIB)]
    begun = time.perf_counter()
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin and process.stdout and "QMP" in process.stdout.readline()
        took_ms = (time.perf_counter() - begun) * 1000
        process.kill()
    return took_ms


async def start_ms(cri: Client, meter: Meter, name: str) -> tuple[str, float]:
    """One RunPodSandbox: the pod, and its milliseconds without the plugins'."""
    meter.reset()
    begun = time.perf_counter()
    pod = await cri.pod(name)
    return pod, (time.perf_counter() - begun) * 1000 - meter.plugins_ms


async def one_by_one(cri: Client, meter: Meter, kind: str, *, rounds: int, size: int = 0) -> list[float]:
    """So many pods, one after the other, each removed; with a pool each when it is full."""
    samples = []
    for number in range(rounds):
        if size:
            await cri.warmed(size, limit_s=WAIT_S)
        pod, took_ms = await start_ms(cri, meter, f"{kind}-{number}")
        samples.append(took_ms)
        await cri("RemovePodSandbox", pod_sandbox_id=pod)
    return samples


async def at_once(cri: Client, kind: str, count: int) -> Burst:
    """So many pods at once; then a container and an exec in each, one after the other."""
    begun = time.perf_counter()
    pods = await asyncio.gather(*(_sandbox(cri, f"{kind}-{number}") for number in range(count)))
    took_ms = (time.perf_counter() - begun) * 1000
    cpu_ms = [vmm_cpu_ms(pod.vm.pid) for pod in cri.node.pods.pods() if pod.vm is not None]
    ready, execs_ms = _memory(cri), []
    for pod in pods:
        container = await cri.container(pod, "sleep", "100000")
        await cri("StartContainer", container_id=container, deadline_s=WAIT_S)
        await asyncio.sleep(STARTED_S)
        begun = time.perf_counter()
        await cri("ExecSync", container_id=container, cmd=["true"], timeout=60, deadline_s=WAIT_S)
        execs_ms.append((time.perf_counter() - begun) * 1000)
    burst = Burst(took_ms, cpu_ms, ready, _memory(cri), execs_ms)
    await asyncio.gather(*(cri("RemovePodSandbox", pod_sandbox_id=pod, deadline_s=WAIT_S) for pod in pods))
    return burst


def _memory(cri: Client) -> list[Memory]:
    return [guest_memory(pod.vm.pid) for pod in cri.node.pods.pods() if pod.vm is not None]


async def _sandbox(cri: Client, name: str) -> str:
    reply = await cri("RunPodSandbox", config=cri.sandbox(name), deadline_s=WAIT_S)
    return str(reply.pod_sandbox_id)


async def _kind_of_pods(world: VmWorld, meter: Meter, kind: str, *, rounds: int, count: int) -> dict[str, Any]:
    """Pods that boot, or with templates that are copies."""
    templates = Templates(enabled=kind == "template")
    world.config = world.config.but(templates=templates)
    async with world.daemon() as cri:
        pod, _ = await start_ms(cri, meter, "first")
        made_ms = 0.0
        if cri.node.templates:
            begun = time.perf_counter()
            await cri.node.templates.settled()
            made_ms = (time.perf_counter() - begun) * 1000
        await cri("RemovePodSandbox", pod_sandbox_id=pod)
        samples = await one_by_one(cri, meter, kind, rounds=rounds)
        burst = await at_once(cri, kind, count)
        failed = cri.node.templates.counts()["failed"] if cri.node.templates else 0
    return {"ms": samples, "made_ms": made_ms, "burst": burst, "failed": failed}


async def measure(rounds: int, count: int) -> dict[str, Any]:
    """The whole report."""
    with node(memory_mib=MEMORY_MIB) as (world, _):
        await asyncio.to_thread(_pull, world)
        meter = Meter()
        try:
            qemu = statistics.median(qemu_ms(world.host.choice.binary) for _ in range(5))
            cold = await _kind_of_pods(world, meter, "cold", rounds=rounds, count=count)
            copies = await _kind_of_pods(world, meter, "template", rounds=rounds, count=count)
            world.warm(2)
            async with world.daemon() as cri:
                pool = await one_by_one(cri, meter, "pool", rounds=rounds, size=2)
            world.warm(0)
            world.config = world.config.but(templates=Templates())
            copied = await forks.measure(world, rounds)
        finally:
            meter.close()
        leaked = world.left_over() != []
    return _report(cold, copies, pool=pool, qemu=qemu) | copied | {"pods": count, "leaked": leaked}


def _pull(world: VmWorld) -> None:
    with Registry(world.root / "registry") as registry:
        reference = registry.push(f"oci:{world.host.guest_dir}/sample:sample", "t/busybox:1")
        store = ImageStore(world.config.state_dir)
        pull_blocking(store, reference, config=Config())
        store.close()
    world.image = reference


def _report(cold: dict[str, Any], copies: dict[str, Any], *, pool: list[float], qemu: float) -> dict[str, Any]:
    booted, begun = cold["burst"], copies["burst"]
    medians = {"cold": cold["ms"], "template": copies["ms"], "pool": pool}
    ran = {name: round(statistics.median(values), 1) for name, values in medians.items()}
    execs = {"cold": statistics.median(booted.exec_ms), "template": statistics.median(begun.exec_ms)}
    return {
        "private_mib_per_pod": _mib(begun.memory),
        "cold_private_mib_per_pod": _mib(booted.memory),
        "ready_private_mib": {"cold": _mib(booted.ready), "template": _mib(begun.ready)},
        "run_pod_sandbox_ms": ran,
        "qemu_ms": round(qemu, 1),
        "start_ratio": round((ran["template"] - qemu) / ran["cold"], 3),
        "at_once_ms": {"cold": round(booted.took_ms), "template": round(begun.took_ms)},
        "at_once_ratio": round(begun.took_ms / booted.took_ms, 3),
        "vmm_cpu_ms": {
            "cold": round(statistics.mean(booted.cpu_ms)),
            "template": round(statistics.mean(begun.cpu_ms)),
        },
        "first_exec_ms": {name: round(value, 1) for name, value in execs.items()},
        "exec_ratio": round(execs["template"] / execs["cold"], 3),
        "pss_ratio": round(sum(one.pss for one in begun.memory) / sum(one.pss for one in booted.memory), 3),
        "made_ms": round(copies["made_ms"]),
        "failed": copies["failed"],
        "load": round(os.getloadavg()[0], 1),
        "budget": BUDGET,
    }


def _mib(memory: list[Memory]) -> float:
    return round(statistics.median(one.private for one in memory) / 1024, 2)


def is_kept(measured: dict[str, Any]) -> bool:
    """Whether the budget is."""
    return bool(
        not (measured["failed"] or measured["leaked"])
        and measured["private_mib_per_pod"] <= BUDGET["private_mib"]
        and measured["pss_ratio"] <= BUDGET["shared"]
        and measured["start_ratio"] <= BUDGET["start"]
        and measured["at_once_ratio"] <= BUDGET["at_once"]
        and measured["exec_ratio"] <= BUDGET["exec"]
        and measured["fork_pause_ms"] <= BUDGET["pause_ms"]
        and measured["fork_ratio"] <= BUDGET["copy"]
    )


def main() -> int:
    """Print the report; the exit code says whether the budget is kept."""
    parser = argparse.ArgumentParser(prog="scripts/bench template", description=__doc__)
    parser.add_argument("--json", action="store_true", help="one JSON object")
    parser.add_argument("--rounds", type=int, default=10, help="pods of each kind, one after the other (10)")
    parser.add_argument("--pods", type=int, default=20, help="pods of each kind at once (20)")
    args = parser.parse_args()
    result = asyncio.run(measure(args.rounds, args.pods))
    print(json.dumps(result) if args.json else "\n".join(f"{name}: {value}" for name, value in result.items()))
    return 0 if is_kept(result) else 1


if __name__ == "__main__":
    sys.exit(main())
