# SPDX-License-Identifier: Apache-2.0
"""A daemon that is killed while a kernel out of an image takes a pod over, gets its disk, or has just begun: the pod is
of use, can be removed, and nothing stays. Real VMs, the daemon is a process.
"""

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from cri.pb import runtime_pb2 as pb
from tests.fakes import kernels
from tests.fakes.oci_layout import file
from tests.fakes.registry import Registry
from tests.hostile.killed import small_vms, until, vmms
from tests.hostile.rig import Caller, Node

pytestmark = [pytest.mark.vm, pytest.mark.timeout(300)]

BLOCK = 12 << 20
MOMENTS = ("its guest has ended", "its disk is copied", "it has begun")


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """With a block image, which is copied to the pod's disk."""
    place = tmp_path_factory.mktemp("kernels")
    files = [file("kernel", kernels.hello(), 0o755), file("block", os.urandom(BLOCK))]
    labels = kernels.labelled(path="/kernel", block="/block", network="linux", machine="q35")
    with Registry(place / "registry") as registry:
        yield kernels.push(registry, place, "t/kernel:1", files=files, labels=labels)


@pytest.fixture
def vms(guest_dir: Path, image: str) -> Iterator[Node]:
    with small_vms(guest_dir, image) as made:
        yield made


def _disks(vms: Node) -> list[Path]:
    place = vms.root / "state/scratch"
    return list(place.iterdir()) if place.exists() else []


async def _run(cri: Caller, pod: str, name: str) -> str:
    container = await cri.container(pod, name=name, args=["spin"])
    await cri("StartContainer", container_id=container)
    return container


async def test_the_pod_is_usable_and_goes_whole(vms: Node) -> None:
    async with vms.client() as cri:
        await cri("PullImage", image=pb.ImageSpec(image=vms.reference))
    for number, moment in enumerate(MOMENTS):
        async with vms.client() as cri:
            pod = await cri.pod("own", log_directory=f"{cri.logs}/own")
            had = {one.name for one in _disks(vms)}
            running = asyncio.ensure_future(_run(cri, pod, f"c{number}"))
            if moment == MOMENTS[0]:
                await until(lambda: vmms(vms) == 0)
            elif moment == MOMENTS[1]:
                await until(lambda: vmms(vms) == 0)
                await until(lambda: bool(_disks(vms)))
            else:
                await until(lambda: vmms(vms) == 0)
                await until(lambda: vmms(vms) == 1)
            vms.kill()
            await asyncio.gather(running, return_exceptions=True)
        assert len(had) <= 1, "the guest's"
        vms.start()
        async with vms.client() as cri:
            for one in (await cri("ListContainers")).containers:
                await cri("StopContainer", container_id=one.id, timeout=0)
                await cri("RemoveContainer", container_id=one.id)
            await until(lambda: vmms(vms) == 0)
            assert await cri.is_ready(pod), moment
            again = await _run(cri, pod, f"again{number}")
            assert (await cri.status(again)).state == pb.CONTAINER_RUNNING
            await cri("RemovePodSandbox", pod_sandbox_id=pod)
            await until(lambda: vmms(vms) == 0)
            assert _disks(vms) == [] and os.listdir(vms.root / "run/pods") == [], moment
