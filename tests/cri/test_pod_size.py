# SPDX-License-Identifier: Apache-2.0
"""A pod's limits while it runs, and guests on a host that is short of memory: asked in the guest, all or nothing."""

import asyncio

import pytest

from cri.monitors.reclaimer import Reclaimer
from cri.pods import resize
from stage1.errors import NoSpace
from stage1.guest import messages
from stage1.guest.messages import Tune
from stage1.linux.pressure import Shortage
from stage1.pod.model import Pod
from tests.fakes.patience import PATIENCE

from .conftest import Client, World

MIB = 1 << 20


def tuned(world: World) -> list[tuple[str, str]]:
    """What the guests were told, in order."""
    return [(op.file, op.text) for guest in world.vmm.guests.values() for op in guest.asked if isinstance(op, Tune)]


async def started(cri: Client, memory: int = 64 * MIB) -> tuple[str, str]:
    """A pod with a limit, and a running container."""
    config = cri.sandbox()
    config.linux.resources.memory_limit_in_bytes = memory
    pod = (await cri("RunPodSandbox", config=config)).pod_sandbox_id
    container = await cri.container(pod, "sleep", "1000")
    await cri("StartContainer", container_id=container)
    return pod, container


async def test_new_sums_are_put_in_force_in_the_guest(world: World) -> None:
    async with world.daemon() as cri:
        pod, _ = await started(cri)
        new = {"memory_limit_in_bytes": 48 * MIB, "cpu_quota": 50_000, "cpu_period": 100_000}
        await cri("UpdatePodSandboxResources", pod_sandbox_id=pod, resources=new)
        assert tuned(world) == [("memory.max", str(48 * MIB)), ("cpu.max", "50000 100000")]
        await cri("UpdatePodSandboxResources", pod_sandbox_id=pod, resources={"cpu_quota": -1})
        assert tuned(world)[2:] == [("cpu.max", "max 100000")]
        await cri("UpdatePodSandboxResources", pod_sandbox_id=pod, overhead={"memory_limit_in_bytes": MIB})
        assert len(tuned(world)) == 3


async def test_sums_below_what_is_used_change_nothing(world: World) -> None:
    async with world.daemon() as cri:
        pod, container = await started(cri)
        async with asyncio.timeout(30 * PATIENCE):
            while (await cri("ContainerStats", container_id=container)).stats.memory.working_set_bytes.value <= MIB:
                await asyncio.sleep(0.1)
        before = cri.node.pods.get(pod).record
        code, sentence = await cri.refused(
            "UpdatePodSandboxResources", pod_sandbox_id=pod, resources={"memory_limit_in_bytes": MIB, "cpu_quota": 2000}
        )
        assert code == "FAILED_PRECONDITION"
        assert "limit of 1048576" in sentence
        assert tuned(world) == []
        assert cri.node.pods.get(pod).record == before


async def test_sums_that_the_guest_refuses_are_taken_back(world: World) -> None:
    async with world.daemon() as cri:
        pod, _ = await started(cri)
        before = cri.node.pods.get(pod).record
        world.faults.refuse[Tune] = messages.Reply(code=messages.FAILED, error="memory.max: Invalid argument")
        new = {"memory_limit_in_bytes": 48 * MIB}
        result = await cri.refused("UpdatePodSandboxResources", pod_sandbox_id=pod, resources=new)
        assert result == ("UNKNOWN", "memory.max: Invalid argument")
        assert cri.node.pods.get(pod).record == before
        world.faults.refuse.clear()
        await cri("UpdatePodSandboxResources", pod_sandbox_id=pod, resources=new)


async def test_a_pod_that_no_host_could_hold_is_refused_before_anything_is_made(world: World) -> None:
    async with world.daemon() as cri:
        config = cri.sandbox(annotations={"clearpod.io/memory-mib": str(1 << 20)})
        code, sentence = await cri.refused("RunPodSandbox", config=config)
        assert code == "RESOURCE_EXHAUSTED"
        assert "this host has" in sentence
        assert world.left_over() == []


@pytest.mark.parametrize(("mib", "total_mib", "fits"), [(128, 127, False), (128, 128, True), (128, 1 << 20, True)])
def test_a_vm_must_fit_into_the_host(mib: int, total_mib: int, fits: bool) -> None:
    pod = Pod("0" * 64, "web", memory_mib=mib)
    if fits:
        resize.require_host(pod, total_mib * MIB)
    else:
        with pytest.raises(NoSpace, match=r"128 MiB, .*host has 127 MiB"):
            resize.require_host(pod, total_mib * MIB)


async def test_a_limit_below_what_a_guest_needs_is_refused(world: World) -> None:
    async with world.daemon() as cri:
        config = cri.sandbox(annotations={"clearpod.io/memory-mib": "8"})
        code, sentence = await cri.refused("RunPodSandbox", config=config)
        assert code == "INVALID_ARGUMENT"
        assert "a guest needs" in sentence


@pytest.mark.parametrize("reply", [None, messages.Reply(code=messages.FAILED, error="memory.reclaim: no")])
async def test_a_guest_that_was_asked_rests_whether_it_gave_or_not(world: World, reply: messages.Reply | None) -> None:
    if reply:
        world.faults.refuse[Tune] = reply
    async with world.daemon() as cri:
        await started(cri)
        reclaimer = Reclaimer(cri.node.pods.pods, lambda: Shortage(memory_waits=50.0), worth_bytes=0)
        for _ in range(3):
            await reclaimer.tick()
        assert [file for file, _ in tuned(world)] == ["memory.reclaim"]


async def test_a_host_that_has_enough_asks_no_guest(world: World) -> None:
    async with world.daemon() as cri:
        await started(cri)
        await Reclaimer(cri.node.pods.pods, Shortage).tick()
        assert tuned(world) == []
