# SPDX-License-Identifier: Apache-2.0
"""The part of `scripts/bench network` that needs real VMs: throughput beside a container, and many pods in sequence.

Called by network.py. All in a netns of its own; figures on QEMU's emulator say so, since there the guest's own work for
each byte is many times that of a container.
"""

import asyncio
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from cri.config import Config
from cri.store.images import ImageStore
from stage1 import engine
from stage1.linux import namespace, process
from stage1.net import conflist, plugins, protocol
from stage1.net.settings import netns_path
from stage1.pod.model import Pod
from tests.cri.conftest import Client, Registered, VmWorld
from tests.cri.net_rig import PORT, build_probe, on_host, two_pods
from tests.fakes import places
from tests.fakes.far_host import run_here
from tests.fakes.outer_net import OuterNet, outer_net
from tests.fakes.pulled import pull_blocking
from tests.fakes.registry import Registry

ROOT = Path(__file__).parents[2]
MIB, ROUNDS = "50", 3
PATIENT_S = 250.0


class Place(NamedTuple):
    """A node with real VMs in a netns `net`, and the program that moves data."""

    world: VmWorld
    net: OuterNet
    probe: str


class Life(NamedTuple):
    """A pod's id, and what its two calls took."""

    pod: str
    run_ms: float
    remove_ms: float


@contextmanager
def place() -> Iterator[Place]:
    """Removes all that it made."""
    guest = Path(os.environ.get("CLEARPOD_GUEST_DIR", ROOT / "build" / "guest"))
    with places.short_directory() as directory, tempfile.TemporaryDirectory() as tools:
        root = Path(directory)
        with outer_net(root / "host") as net:
            world = VmWorld(root, _sample(root, guest), guest)
            world.host = world.host._replace(network=net.settings)
            try:
                yield Place(world, net, build_probe(Path(tools)))
            finally:
                for directory in engine.pod_directories(world.host):
                    engine.clean_up(directory)


def _sample(root: Path, guest: Path) -> Registered:
    """The sample image in a store; pulled from a registry of the same netns."""
    run_here("ip", "link", "set", "lo", "up")
    with Registry(root / "registry") as registry:
        reference = registry.push(f"oci:{guest}/sample:sample", "t/busybox:1")
        store = ImageStore(f"{root}/state")
        pull_blocking(store, reference, config=Config())
        store.close()
    return Registered(reference, f"{root}/state")


@contextmanager
def container(net: OuterNet, probe: str) -> Iterator[tuple[str, str]]:
    """A netns on the pods' bridge with a server in it, as a container has it: the file that keeps it, its address."""
    path = f"/run/netns/t-bench-{os.urandom(4).hex()}"
    network, runner = conflist.find(net.settings.conf_dir).network, plugins.Runner(net.settings.bin_dirs)
    assert network is not None
    call = protocol.call_for(Pod(os.urandom(32).hex(), "container"), path, ifname="eth0")
    namespace.make_net(path)
    try:
        result = runner.add(network, call, done=lambda _: None)
        with namespace.inside_net(path):
            run_here("ip", "link", "set", "lo", "up")
            server = subprocess.Popen([probe, "serve"])
        try:
            yield path, protocol.ips(result)[0]
        finally:
            server.kill()
            server.wait()
            runner.delete(network, call, previous=result, is_lost=False)
    finally:
        namespace.remove_net(path)


def throughput() -> dict[str, Any]:
    """MiB/s of the best of some transfers, each way, of VMs and of containers; and the one to the other as ratio."""
    with place() as here, container(here.net, here.probe) as one, container(here.net, here.probe) as two:
        containers = {
            "guest_to_host": _best(lambda: run_here(here.probe, "get", one[1], PORT, MIB)),
            "host_to_guest": _best(lambda: run_here(here.probe, "put", one[1], PORT, MIB)),
            "guest_to_guest": _best(lambda: _inside(two[0], here.probe, "get", one[1], PORT, MIB)),
        }
        vms = asyncio.run(_vms(here))
        accel = here.world.host.choice.accel
    return {
        "accel": accel,
        "vm_mib_s": vms,
        "container_mib_s": containers,
        "ratio": {direction: round(vms[direction] / containers[direction], 3) for direction in vms},
    }


async def _vms(here: Place) -> dict[str, float]:
    async with two_pods(here.world, here.net, probe=here.probe) as (one, two):
        ip = one.ips[0]
        return {
            "guest_to_host": max([_rate(await on_host(here.probe, "get", ip, PORT, MIB)) for _ in range(ROUNDS)]),
            "host_to_guest": max([_rate(await on_host(here.probe, "put", ip, PORT, MIB)) for _ in range(ROUNDS)]),
            "guest_to_guest": max([_rate(await two.probe("get", ip, PORT, MIB)) for _ in range(ROUNDS)]),
        }


def _best(transfer: Callable[[], str]) -> float:
    return max(_rate(transfer()) for _ in range(ROUNDS))


def _inside(path: str, *argv: str) -> str:
    with namespace.inside_net(path):
        return run_here(*argv)


def _rate(text: str) -> float:
    moved, took_ns = map(int, text.split())
    return round(moved / (1 << 20) / (took_ns / 1e9), 1)


def in_sequence(count: int) -> dict[str, Any]:
    """So many pods with real VMs, one after the other: what each call took, the quarters of it, and what was left."""
    with place() as here:
        return asyncio.run(_pods(here, count, at_once=1))


def in_parallel(count: int) -> dict[str, Any]:
    """As `in_sequence`, with all of them at once, small ones."""
    with place() as here:
        patient = here.world.config.vm.but(boot_timeout_s=PATIENT_S)
        here.world.config = here.world.config.but(vm=patient)
        return asyncio.run(_pods(here, count, at_once=count))


async def _pods(here: Place, count: int, *, at_once: int) -> dict[str, Any]:
    together = asyncio.Semaphore(at_once)
    async with here.world.daemon() as cri:
        await _pod_and_gone(cri, 0, together=together)
        before = _state(here)
        calls = (_pod_and_gone(cri, number, together=together) for number in range(1, count + 1))
        took = await asyncio.gather(*calls)
        left = sorted(_state(here) ^ before)
        left += [f"netns of {one.pod}" for one in took if os.path.exists(netns_path(one.pod))]
    runs, removals = [one.run_ms for one in took], [one.remove_ms for one in took]
    quarter = max(count // 4, 1)
    return {
        "pods": count,
        "accel": here.world.host.choice.accel,
        "run_ms": _spread(runs),
        "remove_ms": _spread(removals),
        "run_ms_by_quarter": [round(statistics.median(runs[at : at + quarter])) for at in range(0, count, quarter)],
        "left": left + here.world.left_over(),
    }


def _state(here: Place) -> set[str]:
    """Links, rules, leases, records, processes and descriptors. A line that came or went is a leak."""
    children = process.run(["ps", "-o", "comm=", "--ppid", str(os.getpid())], timeout_s=20).stdout.decode().split()
    programs = [f"process {name}" for name in children if name != "ps"]
    return {*here.net.state().splitlines(), *programs, f"{len(os.listdir('/proc/self/fd'))} descriptors"}


async def _pod_and_gone(cri: Client, number: int, *, together: asyncio.Semaphore) -> Life:
    async with together:
        begun = time.perf_counter()
        config = cri.sandbox(f"p{number}", annotations={"clearpod.io/memory-mib": "64"})
        pod = (await cri("RunPodSandbox", config=config, deadline_s=PATIENT_S)).pod_sandbox_id
        running = time.perf_counter()
        await cri("RemovePodSandbox", pod_sandbox_id=pod, deadline_s=PATIENT_S)
        return Life(pod, (running - begun) * 1000, (time.perf_counter() - running) * 1000)


def _spread(samples: list[float]) -> dict[str, float]:
    samples = sorted(samples)
    return {
        "median": round(statistics.median(samples), 1),
        "p95": round(samples[int(len(samples) * 0.95)], 1),
        "most": round(samples[-1], 1),
    }
