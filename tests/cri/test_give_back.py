# SPDX-License-Identifier: Apache-2.0
"""Memory that a container has freed goes back to the host, and the VMM has no huge pages that would hold it."""

import asyncio
from pathlib import Path

import pytest

from cri.pb import runtime_pb2 as pb
from stage1 import engine
from tests.bench.lib import footprint
from tests.fakes.patience import PATIENCE

from .conftest import Client, VmWorld, vm_world

pytestmark = pytest.mark.vm

FILLED_MIB = 40
LIMIT_S = 30 * PATIENCE


async def guest_mib(world: VmWorld, pod: str) -> float:
    """What guest RAM takes of the host's."""
    vm = engine.find_vm(engine.pod_directory(world.host, pod))
    assert vm is not None
    return footprint.of(vm.pid, ()).guest / 1024


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


async def test_what_a_container_frees_goes_back_to_the_host(sample: object, guest_dir: Path) -> None:
    with vm_world(sample, guest_dir) as world:  # type: ignore[arg-type]
        async with world.daemon() as cri:
            await cri("PullImage", image=pb.ImageSpec(image=cri.image))
            pod = await cri.pod(log_directory=f"{world.root}/logs")
            container = await cri.container(pod, "sleep", "1000")
            await cri("StartContainer", container_id=container)
            for file in ("/dev/shm/memory", "/root/page-cache"):
                full, least = await fill_and_free(cri, world, container, file=file, pod=pod)
                assert least <= full - FILLED_MIB / 2
            vm = engine.find_vm(engine.pod_directory(world.host, pod))
            assert vm is not None
            assert footprint.of(vm.pid, ()).huge == 0
            await cri("RemovePodSandbox", pod_sandbox_id=pod)
