# SPDX-License-Identifier: Apache-2.0
"""Memory that a container has freed goes back to the host, and the VMM has no huge pages that would hold it."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from cri.monitors.reclaimer import Reclaimer
from cri.pb import runtime_pb2 as pb
from stage1 import engine
from stage1.linux.pressure import Shortage
from tests.bench.lib import footprint
from tests.fakes.patience import PATIENCE

from .conftest import Client, Registered, VmWorld, vm_world

pytestmark = pytest.mark.vm

MIB = 1 << 20
FILLED_MIB = 40
LIMIT_S = 30 * PATIENCE


async def guest_mib(world: VmWorld, pod: str) -> float:
    """What guest RAM takes of the host's."""
    vm = engine.find_vm(engine.pod_directory(world.host, pod))
    assert vm is not None
    return footprint.of(vm.pid).guest / 1024


async def fill_and_free(cri: Client, world: VmWorld, container: str, *, file: str, pod: str) -> tuple[float, float]:
    """MiB when the file is there, and the least that was seen after it was removed."""
    say = ["sh", "-c", f"dd if=/dev/urandom of={file} bs=1M count={FILLED_MIB} 2>/dev/null"]
    assert (await cri("ExecSync", container_id=container, cmd=say, timeout=60)).exit_code == 0
    full = await guest_mib(world, pod)
    await cri("ExecSync", container_id=container, cmd=["rm", file], timeout=60)
    least = full
    async with asyncio.timeout(LIMIT_S):
        while least > full - FILLED_MIB / 2:
            await asyncio.sleep(0.5)
            least = min(least, await guest_mib(world, pod))
    return full, least


@pytest.fixture(scope="module")
def world(sample: Registered, guest_dir: Path) -> Iterator[VmWorld]:
    """A machine for all tests; its VM boots. That copies give memory back: test_template_vms.py."""
    with vm_world(sample, guest_dir) as made:
        yield made


@asynccontextmanager
async def running(world: VmWorld) -> AsyncIterator[tuple[Client, str, str]]:
    """The machine's pod with a new container that waits, alone."""
    async with world.daemon() as cri:
        await cri("PullImage", image=pb.ImageSpec(image=cri.image))
        config = cri.sandbox(log_directory=f"{world.root}/logs")
        config.linux.resources.memory_limit_in_bytes = 64 * MIB
        pods = [one.id for one in (await cri("ListPodSandbox")).items]
        pod = pods[0] if pods else (await cri("RunPodSandbox", config=config)).pod_sandbox_id
        container = await cri.container(pod, "sleep", "1000")
        await cri("StartContainer", container_id=container)
        yield cri, pod, container
        await cri("RemoveContainer", container_id=container)


async def test_what_a_container_frees_goes_back_to_the_host(world: VmWorld) -> None:
    async with running(world) as (cri, pod, container):
        for file in ("/dev/shm/memory", "/root/page-cache"):
            full, least = await fill_and_free(cri, world, container, file=file, pod=pod)
            assert least <= full - FILLED_MIB / 2
        vm = engine.find_vm(engine.pod_directory(world.host, pod))
        assert vm is not None
        assert footprint.of(vm.pid).huge == 0


async def test_a_host_that_is_short_gets_cached_files_back(world: VmWorld) -> None:
    async with running(world) as (cri, pod, container):
        say = ["sh", "-c", f"dd if=/dev/urandom of=/root/cached bs=1M count={FILLED_MIB} 2>/dev/null; sync"]
        assert (await cri("ExecSync", container_id=container, cmd=say, timeout=60)).exit_code == 0
        full = await guest_mib(world, pod)
        reclaimer = Reclaimer(cri.node.pods.pods, lambda: Shortage(memory_waits=50.0))
        await reclaimer.tick()
        async with asyncio.timeout(LIMIT_S):
            while await guest_mib(world, pod) > full - FILLED_MIB / 4:
                await asyncio.sleep(0.5)
        count = await cri("ExecSync", container_id=container, cmd=["sh", "-c", "wc -c < /root/cached"], timeout=60)
        assert int(count.stdout) == FILLED_MIB * MIB
        assert (await cri.status(container)).state == pb.CONTAINER_RUNNING


async def test_a_new_limit_of_the_pod_holds_in_the_guest(world: VmWorld) -> None:
    """The last one: the limit stays."""
    async with running(world) as (cri, pod, container):
        fill = ["sh", "-c", "dd if=/dev/zero of=/dev/shm/x bs=1M count=30 2>/dev/null; rm /dev/shm/x"]
        assert (await cri("ExecSync", container_id=container, cmd=fill, timeout=60)).exit_code == 0
        await cri("UpdatePodSandboxResources", pod_sandbox_id=pod, resources={"memory_limit_in_bytes": 20 * MIB})
        fill = ["sh", "-c", "dd if=/dev/zero of=/dev/shm/x bs=1M count=30 2>/dev/null && rm /dev/shm/x"]
        assert (await cri("ExecSync", container_id=container, cmd=fill, timeout=60)).exit_code == 137
