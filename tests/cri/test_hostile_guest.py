# SPDX-License-Identifier: Apache-2.0
"""A guest that reports impossible numbers, times and names, and its neighbours."""

import asyncio
import json
import time
from collections.abc import Callable

import pytest

from cri.pb import runtime_pb2 as pb
from stage1.guest import messages as m
from tests.cri.conftest import Client, World
from tests.fakes.guest import Faults
from tests.fakes.patience import PATIENCE

BIG = 2**64 - 1
NAMES = tuple(m.InterfaceStats(f"e{number}") for number in range(3000))


async def running(cri: Client, name: str) -> tuple[str, str]:
    """A pod with one container that runs."""
    pod = await cri.pod(name, log_directory=f"{cri.node.config.run_dir}/logs")
    container = await cri.container(pod, "/usr/bin/sleep", "1000", name=name)
    await cri("StartContainer", container_id=container)
    return pod, container


async def why(cri: Client, pod: str) -> tuple[int, str]:
    """The pod's state, and the sentence about it."""
    output = await cri("PodSandboxStatus", pod_sandbox_id=pod, verbose=True)
    return output.status.state, json.loads(output.info["info"])["why"]


async def cut(cri: Client, pod: str) -> str:
    """The sentence once the pod is not ready and its VM has ended."""
    async with asyncio.timeout(10 * PATIENCE):
        while (await why(cri, pod))[0] == pb.SANDBOX_READY or not cri.node.pods.get(pod).gone.is_set():
            await asyncio.sleep(0.02)
    return (await why(cri, pod))[1]


def pod_stats(**fields: object) -> Callable[[m.Reply], m.Reply]:
    def lie(true: m.Reply) -> m.Reply:
        assert true.pod is not None
        return true._replace(pod=true.pod._replace(**fields))  # type: ignore[arg-type]

    return lie


def container_stats(**fields: object) -> Callable[[m.Reply], m.Reply]:
    return lambda true: true._replace(stats=tuple(one._replace(**fields) for one in true.stats))  # type: ignore[arg-type]


LIES = {
    "CpuStats.usage_us": pod_stats(cpu=m.CpuStats(usage_us=BIG)),
    "CpuStats.user_us": container_stats(cpu=m.CpuStats(user_us=2**53 + 1)),
    "MemoryStats.limit": pod_stats(memory=m.MemoryStats(limit=BIG)),
    "MemoryStats.usage": container_stats(memory=m.MemoryStats(usage=2**63)),
    "ContainerStats.read_bytes": container_stats(read_bytes=BIG),
    "PodStats.disk_bytes": pod_stats(disk_bytes=BIG),
    "PodStats.at_ns": pod_stats(at_ns=BIG),
    "PodStats.interfaces": pod_stats(interfaces=NAMES),
    "InterfaceStats.rx_bytes": pod_stats(interfaces=(m.InterfaceStats("eth0", BIG),)),
    "InterfaceStats.name": pod_stats(interfaces=(m.InterfaceStats("e\n# HELP x"),)),
    "ContainerStats.id": container_stats(id="../../etc"),
    "Reply.stats": lambda true: true._replace(stats=tuple(m.ContainerStats(f"{n:064}") for n in range(300))),
}


@pytest.mark.parametrize("field", LIES)
async def test_numbers_that_can_not_be_cost_their_pod_and_no_answer_about_others(world: World, field: str) -> None:
    async with world.daemon() as cri:
        neighbour, container = await running(cri, "neighbour")
        world.vmm.faults = Faults(lie={m.Stats: LIES[field]})
        liar, own = await running(cri, "liar")
        assert container in {one.attributes.id for one in (await cri("ListContainerStats")).stats}
        assert field in await cut(cri, liar)
        assert [one.attributes.id for one in (await cri("ListPodSandboxStats")).stats] == [neighbour]
        assert [one.pod_sandbox_id for one in (await cri("ListPodSandboxMetrics")).pod_metrics] == [neighbour]
        status = await cri.status(own)
        assert (status.state, status.exit_code, status.reason) == (pb.CONTAINER_EXITED, 137, "Error")
        assert field in status.message
        assert (await cri.refused("ExecSync", container_id=own, cmd=["true"]))[0] == "FAILED_PRECONDITION"
        assert (await cri("ExecSync", container_id=container, cmd=["true"])).exit_code == 0
        for pod in (liar, neighbour):
            await cri("RemovePodSandbox", pod_sandbox_id=pod)
        assert world.left_over() == []


async def test_the_largest_numbers_that_can_be_are_passed_on(world: World) -> None:
    largest = m.MemoryStats(*[2**63 - 1] * 14)
    world.faults.lie[m.Stats] = lambda true: container_stats(
        cpu=m.CpuStats(*[2**53] * 6), memory=largest, read_bytes=2**63 - 1, at_ns=time.monotonic_ns()
    )(pod_stats(cpu=m.CpuStats(*[2**53] * 6), memory=largest, interfaces=NAMES[:16])(true))
    async with world.daemon() as cri:
        pod, container = await running(cri, "liar")
        for name in ("ListContainerStats", "ListPodSandboxStats", "ListPodSandboxMetrics"):
            await cri(name)
        assert (
            await cri("ContainerStats", container_id=container)
        ).stats.cpu.usage_core_nano_seconds.value == 2**53 * 1000
        assert len((await cri("PodSandboxStats", pod_sandbox_id=pod)).stats.linux.network.interfaces) == 16
        assert await why(cri, pod) == (pb.SANDBOX_READY, "")


async def test_containers_that_we_did_not_make_are_not_counted(world: World) -> None:
    more = tuple(m.ContainerStats(f"{number:064}") for number in range(30))
    world.faults.lie[m.Stats] = lambda true: true._replace(stats=(*true.stats, *more))
    async with world.daemon() as cri:
        pod, container = await running(cri, "liar")
        await cri("ListPodSandboxMetrics")
        assert set(cri.node.pods.get(pod).meter._last[True].containers) == {container}
        assert len((await cri("ListPodSandboxMetrics")).pod_metrics[0].container_metrics) == 1


@pytest.mark.parametrize("unix_ns", [2**64 - 1, 2**63])
async def test_an_end_at_a_time_that_can_not_be_is_cut_off_and_can_be_stopped(world: World, unix_ns: int) -> None:
    world.faults.exit_ns = unix_ns
    async with world.daemon() as cri:
        pod = await cri.pod()
        container = await cri.container(pod, "true")
        await cri("StartContainer", container_id=container)
        status = await cri.ended(container)
        assert (status.exit_code, status.reason) == (137, "Error")
        assert "Exited.unix_ns" in await cut(cri, pod)
        assert "Exited.unix_ns" in status.message
        await cri("StopPodSandbox", pod_sandbox_id=pod, deadline_s=5)
        await cri("RemovePodSandbox", pod_sandbox_id=pod)
        assert world.left_over() == []


@pytest.mark.parametrize("unix_ns", [1, 2**63 - 1])
async def test_an_end_is_not_before_the_start_and_not_in_the_future(world: World, unix_ns: int) -> None:
    world.faults.exit_ns = unix_ns
    async with world.daemon() as cri:
        container = await cri.container(await cri.pod(), "true")
        await cri("StartContainer", container_id=container)
        status = await cri.ended(container)
        assert status.created_at <= status.started_at <= status.finished_at <= time.time_ns()
        assert (status.exit_code, status.reason) == (0, "Completed")


async def test_the_text_of_a_guests_error_is_short_and_can_be_printed(world: World) -> None:
    output = "\x1b[31mcrun: no\nsuch\tthing\x00" + "x" * 20_000
    world.faults.refuse[m.Exec] = m.Reply(code=m.FAILED, error=output)
    async with world.daemon() as cri:
        _, container = await running(cri, "liar")
        code, text = await cri.refused("ExecSync", container_id=container, cmd=["true"])
        assert code == "UNKNOWN"
        assert text.startswith("\ufffd[31mcrun: no such thing\ufffdxxx")
        assert len(text) == 480


async def test_a_stop_during_removals_of_the_same_containers_ends_well(world: World) -> None:
    async with world.daemon() as cri:
        pod = await cri.pod()
        made = [await cri.container(pod, "/usr/bin/sleep", "1000", name=f"c{number}") for number in range(6)]
        await asyncio.gather(*(cri("StartContainer", container_id=one) for one in made))
        removals = [cri("RemoveContainer", container_id=one) for one in (*made, *made)]
        await asyncio.gather(cri("StopPodSandbox", pod_sandbox_id=pod), *removals)
        assert (await cri("ListContainers")).containers == []
        await cri("RemovePodSandbox", pod_sandbox_id=pod)
        assert world.left_over() == []
