# SPDX-License-Identifier: Apache-2.0
"""Images through the socket: deadlines, removal at once and of what is in use, and one id in all answers.

critest_specs.toml names the specs of critest that are the same; what concerns registries is in
tests/system/test_registry.py and test_registry_faults.py.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from grpc import StatusCode, aio

from cri.pb import runtime_pb2 as pb
from tests.fakes.patience import PATIENCE

from .conftest import Client, VmWorld, World
from .test_real_vm import machine

__all__ = ["machine"]


@asynccontextmanager
async def pulled(world: World) -> AsyncIterator[tuple[Client, str]]:
    """A daemon and the image's id."""
    async with world.daemon() as cri:
        yield cri, (await cri("PullImage", image=pb.ImageSpec(image=world.image))).image_ref


async def names(cri: Client) -> set[str]:
    """The tags of all images."""
    return {tag for image in (await cri("ListImages")).images for tag in image.repo_tags}


async def test_a_pull_reports_its_deadline_and_the_next_one_works(world: World) -> None:
    """The longer deadlines may be enough: a small image takes a quick machine 20 ms."""
    codes = []
    async with pulled(world) as (cri, _):
        for deadline_s in (0.001, 0.005, 0.01, 0.02, 0.05):
            await cri("RemoveImage", image=pb.ImageSpec(image=world.image))
            try:
                await cri("PullImage", image=pb.ImageSpec(image=world.image), deadline_s=deadline_s / PATIENCE)
            except aio.AioRpcError as error:
                codes.append(error.code())
            second = await cri("PullImage", image=pb.ImageSpec(image=world.image))
            status = await cri("ImageStatus", image=pb.ImageSpec(image=world.image))
            assert status.image.id == second.image_ref and status.image.size > 0
    assert codes and set(codes) == {StatusCode.DEADLINE_EXCEEDED}


async def test_a_pull_and_a_removal_are_seen_at_once(world: World) -> None:
    async with pulled(world) as (cri, _):
        for _ in range(3):
            await cri("RemoveImage", image=pb.ImageSpec(image=world.image))
            assert await names(cri) == set()
            assert not (await cri("ImageStatus", image=pb.ImageSpec(image=world.image))).HasField("image")
            await cri("PullImage", image=pb.ImageSpec(image=world.image))
            assert await names(cri) == {world.image}


async def test_five_removals_at_once_succeed_and_it_is_gone_after_each(world: World) -> None:
    async def remove(cri: Client, image: str) -> None:
        await cri("RemoveImage", image=pb.ImageSpec(image=image))
        assert not (await cri("ImageStatus", image=pb.ImageSpec(image=image))).HasField("image")

    async with pulled(world) as (cri, image):
        await asyncio.gather(*(remove(cri, image) for _ in range(5)))


async def test_all_calls_name_the_image_alike(world: World) -> None:
    async with pulled(world) as (cri, image):
        pod = await cri.pod()
        status = (await cri("ImageStatus", image=pb.ImageSpec(image=world.image))).image
        assert (status.id, status.repo_tags[:]) == (image, [world.image])
        made = [await cri.container(pod, image=pb.ImageSpec(image=ref), name=f"c{n}") for n, ref in enumerate(
            (world.image, image, status.repo_digests[0])
        )]  # fmt: skip
        listed = (await cri("ListContainers")).containers
        states = [await cri.status(one) for one in made]
        assert [one.id for one in (await cri("ListImages")).images] == [image]
        assert {one.image_id for one in (*listed, *states)} == {image}
        # What kubelet shows as the container's imageID: one that can be pulled.
        assert {one.image_ref for one in (*listed, *states)} == set(status.repo_digests)
        await cri("RemovePodSandbox", pod_sandbox_id=pod)
        assert world.left_over() == []


async def test_an_image_in_use_may_be_removed_and_its_container_goes_on(any_world: World) -> None:
    async with pulled(any_world) as (cri, image):
        pod = await cri.pod()
        runs = await cri.container(pod, "sleep", "1000", name="runs")
        await cri("StartContainer", container_id=runs)
        waits = await cri.container(pod, "true", name="waits")
        await cri("RemoveImage", image=pb.ImageSpec(image=image))
        assert await names(cri) == set()
        late = cri.config("true", name="late")
        assert (await cri.refused("CreateContainer", pod_sandbox_id=pod, config=late))[0] == "NOT_FOUND"
        await cri("StartContainer", container_id=waits)  # it was made before
        assert (await cri.status(runs)).image_id == image
        assert (await cri("PullImage", image=pb.ImageSpec(image=any_world.image))).image_ref == image
        await cri("StartContainer", container_id=await cri.container(pod, "true", name="late"))
        assert (await cri.status(runs)).state == pb.CONTAINER_RUNNING
        await cri("RemovePodSandbox", pod_sandbox_id=pod)
        assert any_world.left_over() == []


@pytest.mark.vm
async def test_files_of_a_removed_image_and_of_an_image_volume_are_still_read(machine: VmWorld) -> None:
    async with pulled(machine) as (cri, image):
        pod = await cri.pod()
        volume = pb.Mount(image=pb.ImageSpec(image=machine.image), container_path="/i", readonly=True)
        runs = await cri.container(pod, "sleep", "1000", name="runs", mounts=[volume])
        await cri("StartContainer", container_id=runs)
        await cri("RemoveImage", image=pb.ImageSpec(image=image))
        # Nothing of it was read before: not /i at all, and of the root only what sleep needs.
        ran = await cri("ExecSync", container_id=runs, cmd=["/i/bin/busybox", "ls", "/i/bin"])
        assert ran.exit_code == 0 and ran.stdout.count(b"\n") > 100, ran
        await cri("RemovePodSandbox", pod_sandbox_id=pod)
        assert machine.left_over() == []
