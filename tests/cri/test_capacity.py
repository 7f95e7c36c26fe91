# SPDX-License-Identifier: Apache-2.0
"""More containers of one pod than its guest keeps: those that have ended make room, and stay listed."""

from cri.containers.capacity import AT_ONCE, MOST
from cri.pb import runtime_pb2 as pb
from stage1.guest import messages

from .conftest import World

MANY = MOST + 12


async def test_containers_that_ended_make_space_in_the_guest(world: World) -> None:
    async with world.daemon() as cri:
        pod = await cri.pod(log_directory=f"{world.root}/logs")
        lives = await cri.container(pod, "sleep", "1000", name="lives")
        await cri("StartContainer", container_id=lives)
        made = []
        for number in range(MANY):
            made.append(await cri.container(pod, "true", name=f"c{number}"))
            await cri("StartContainer", container_id=made[-1])
            await cri.ended(made[-1])
        (guest,) = world.vmm.guests.values()
        asked = [(type(op), getattr(op, "id", "")) for op in guest.asked]
        gone = [name for kind, name in asked if kind is messages.Delete]
        assert gone == made[: len(gone)], "the oldest first"
        assert MANY + 1 - len(gone) <= MOST - AT_ONCE
        listed = {one.id: one.state for one in (await cri("ListContainers")).containers}
        assert listed == dict.fromkeys(made, pb.CONTAINER_EXITED) | {lives: pb.CONTAINER_RUNNING}
        assert (await cri.status(made[0])).exit_code == 0 and (await cri("ContainerStats", container_id=made[0])).stats
    async with world.daemon() as cri:
        assert (await cri.status(made[0])).reason == "Completed"
        for one in made:
            await cri("RemoveContainer", container_id=one)
        assert [one.id for one in (await cri("ListContainers")).containers] == [lives]


async def test_a_guest_that_is_full_is_no_fault_of_ours(world: World) -> None:
    async with world.daemon() as cri:
        pod = await cri.pod()
        full = "the pod has 128 containers or 256 processes, the most it can; remove some first"
        world.faults.refuse[messages.Create] = messages.Reply(code=messages.FULL, error=full)
        result = await cri.refused("CreateContainer", pod_sandbox_id=pod, config=cri.config("true"))
        assert result == ("RESOURCE_EXHAUSTED", full)
