# SPDX-License-Identifier: Apache-2.0
"""Answers of a guest that are late, wrong, or report that its agent's helper was killed: what runs is never reported as
failed, what has failed does not run, and no pod is forgotten for it.
"""

import asyncio
import json
from pathlib import Path

import pytest
from grpc.aio import AioRpcError

from cri.pb import runtime_pb2 as pb
from stage1.guest import messages as m
from tests.cri.conftest import Client, World
from tests.fakes.patience import PACE, PATIENCE

KILLED = m.Reply(code=m.FAILED, error="the agent's helper was killed")
"""What the agent says when the guest's kernel has killed it for memory, as under a fork bomb."""


async def becomes(cri: Client, container: str, state: int) -> pb.ContainerStatus:
    async with asyncio.timeout(20 * PATIENCE):
        while (status := await cri.status(container)).state != state:
            await asyncio.sleep(0.02)
    return status


async def made(cri: Client, *, limit_s: float = 0) -> tuple[str, str]:
    """A pod with a created container; calls to its guest get `limit_s`."""
    pod = await cri.pod(log_directory=f"{cri.node.config.run_dir}/logs")
    live = cri.node.pods.get(pod)
    live.tools = live.tools._replace(call_timeout_s=limit_s * PACE or live.tools.call_timeout_s)
    return pod, await cri.container(pod, "/usr/bin/sleep", "1000")


def jobs(world: World) -> list[str]:
    """What runs in the guests: the containers' ids."""
    return [job.owner for guest in world.vmm.guests.values() for job in guest._containers.jobs]


def work_again(world: World) -> None:
    world.faults.silent, world.faults.reply_delay_s = False, 0
    for guest in world.vmm.guests.values():
        guest.wake()


async def assert_given_up(cri: Client, container: str, why: str) -> None:
    status = await cri.status(container)
    assert (status.state, status.exit_code, status.reason) == (pb.CONTAINER_EXITED, 128, "StartError")
    assert why in status.message and status.finished_at >= status.created_at
    code, sentence = await cri.refused("StartContainer", container_id=container)
    assert (code, why in sentence) == ("FAILED_PRECONDITION", True)


async def assert_only_the_next_attempt_runs(world: World, cri: Client, pod: str, first: str) -> None:
    work_again(world)
    live = cri.node.pods.get(pod)
    live.tools = live.tools._replace(call_timeout_s=60)
    metadata = pb.ContainerMetadata(name="c", attempt=1)
    second = await cri.container(pod, "/usr/bin/sleep", "1000", metadata=metadata)
    await cri("StartContainer", container_id=second)
    assert jobs(world) == [second]
    assert [(await cri.status(one)).state for one in (first, second)] == [pb.CONTAINER_EXITED, pb.CONTAINER_RUNNING]
    assert (await cri.status(first)).exit_code == 128
    await cri("RemoveContainer", container_id=first)
    await cri("RemovePodSandbox", pod_sandbox_id=pod)
    assert world.left_over() == []


async def test_a_start_that_is_answered_late_is_given_up(world: World) -> None:
    async with world.daemon() as cri:
        pod, container = await made(cri, limit_s=0.3)
        world.faults.silent = True
        code, _ = await cri.refused("StartContainer", container_id=container)
        assert code == "DEADLINE_EXCEEDED"
        await assert_given_up(cri, container, "did not answer within")
        await assert_only_the_next_attempt_runs(world, cri, pod, container)


async def test_a_start_whose_answer_is_lost_is_given_up_and_ends(world: World) -> None:
    async with world.daemon() as cri:
        pod, container = await made(cri, limit_s=0.3)
        world.faults.reply_delay_s = 1.5 * PACE  # the guest runs it meanwhile
        assert (await cri.refused("StartContainer", container_id=container))[0] == "DEADLINE_EXCEEDED"
        await assert_given_up(cri, container, "did not answer within")
        await assert_only_the_next_attempt_runs(world, cri, pod, container)


async def test_a_start_whose_client_goes_away_is_given_up(world: World) -> None:
    async with world.daemon() as cri:
        pod, container = await made(cri)
        world.faults.silent = True
        with pytest.raises(AioRpcError) as caught:
            await cri("StartContainer", container_id=container, deadline_s=0.5)
        assert caught.value.code().name == "DEADLINE_EXCEEDED"
        await assert_given_up(cri, container, "client of StartContainer has gone away")
        await assert_only_the_next_attempt_runs(world, cri, pod, container)


async def test_the_next_attempt_does_not_start_before_the_last_has_ended(world: World) -> None:
    async with world.daemon() as cri:
        pod, first = await made(cri, limit_s=0.5)
        world.faults.ignore = (m.Start, m.Delete)
        assert (await cri.refused("StartContainer", container_id=first))[0] == "DEADLINE_EXCEEDED"
        second = await cri.container(pod, "/usr/bin/sleep", "1000", metadata=pb.ContainerMetadata(name="c", attempt=1))
        world.faults.ignore = m.Delete
        assert (await cri.refused("StartContainer", container_id=second))[0] == "DEADLINE_EXCEEDED"
        guest = next(iter(world.vmm.guests.values()))
        assert m.Start(second) not in guest.asked
        await assert_given_up(cri, second, "did not answer within")


async def test_a_stop_waits_for_the_start_that_is_not_answered_yet(world: World) -> None:
    async with world.daemon() as cri:
        _, container = await made(cri)
        world.faults.reply_delay_s = 0.5 * PACE
        start = asyncio.create_task(cri("StartContainer", container_id=container))
        await asyncio.sleep(0.1)
        await cri("StopContainer", container_id=container, timeout=0)
        await start
        assert (await cri.status(container)).exit_code == 137


async def test_a_start_that_is_reported_as_failed_is_asked_about(world: World) -> None:
    async with world.daemon() as cri:
        _, container = await made(cri)
        world.faults.lie[m.Start] = lambda true: KILLED
        await cri("StartContainer", container_id=container)
        assert (await cri.status(container)).state == pb.CONTAINER_RUNNING


async def test_a_start_that_has_failed_is_reported_as_failed(world: World) -> None:
    async with world.daemon() as cri:
        _, container = await made(cri)
        world.faults.refuse[m.Start] = KILLED
        code, sentence = await cri.refused("StartContainer", container_id=container)
        assert (code, "helper was killed" in sentence) == ("UNKNOWN", True)
        status = await cri.status(container)
        assert (status.state, status.exit_code, status.reason) == (pb.CONTAINER_EXITED, 128, "StartError")


async def test_a_command_that_is_given_up_is_killed_before_the_guest_has_answered(world: World) -> None:
    async with world.daemon() as cri:
        pod, container = await made(cri)
        await cri("StartContainer", container_id=container)
        world.faults.ignore = m.Exec
        code, _ = await cri.refused("ExecSync", container_id=container, cmd=["true"], timeout=1)
        assert code == "DEADLINE_EXCEEDED"
        asked = next(iter(world.vmm.guests.values())).asked
        number = next(op.exec for op in asked if isinstance(op, m.Exec))
        async with asyncio.timeout(20 * PATIENCE):
            while m.Signal(container, number, 9, True) not in asked:
                await asyncio.sleep(0.02)
        await cri("RemovePodSandbox", pod_sandbox_id=pod)


async def test_a_start_that_may_have_failed_is_given_up(world: World) -> None:
    async with world.daemon() as cri:
        pod, container = await made(cri)
        world.faults.lie[m.Start] = lambda true: KILLED
        world.faults.ignore = m.List
        assert (await cri.refused("StartContainer", container_id=container))[0] == "UNKNOWN"
        await assert_given_up(cri, container, "helper was killed")
        world.faults.ignore = None
        world.faults.lie.clear()
        await assert_only_the_next_attempt_runs(world, cri, pod, container)


@pytest.mark.parametrize("is_killed", [False, True])
@pytest.mark.parametrize("is_started", [False, True])
async def test_the_next_daemon_ends_what_was_just_being_started(
    world: World, is_killed: bool, is_started: bool
) -> None:
    async with world.daemon() as cri:
        pod, container = await made(cri)
        world.faults.silent, world.faults.reply_delay_s = not is_started, 3600 * is_started
        call = asyncio.create_task(cri("StartContainer", container_id=container))
        live = cri.node.pods.get(pod)
        async with asyncio.timeout(20 * PATIENCE):
            while not live.containers[container].status.is_asked:
                await asyncio.sleep(0.02)
        killed = Path(live.directory, "state.json").read_bytes()
    with pytest.raises((AioRpcError, asyncio.CancelledError)):
        await call
    if is_killed:
        Path(live.directory, "state.json").write_bytes(killed)
    work_again(world)
    async with world.daemon() as cri:
        why = "clearpod ended before" if is_killed else "client of StartContainer has gone away"
        await assert_given_up(cri, container, why)
        await assert_only_the_next_attempt_runs(world, cri, pod, container)


async def test_a_start_whose_vm_ends_has_failed(world: World) -> None:
    async with world.daemon() as cri:
        _, container = await made(cri)
        world.faults.die_on = m.Start
        await cri.refused("StartContainer", container_id=container)
        await assert_given_up(cri, container, "virtual machine")


@pytest.mark.parametrize("op", [m.Start, m.Exec, m.Update, m.Create])
async def test_a_pod_whose_agent_loses_its_helpers_is_not_forgotten_by_the_next_daemon(
    world: World, op: type[m.Op]
) -> None:
    calls = {
        m.Start: ("StartContainer", {}),
        m.Exec: ("ExecSync", {"cmd": ["true"]}),
        m.Update: ("UpdateContainerResources", {"linux": {"cpu_shares": 99}}),
    }
    async with world.daemon() as cri:
        pod, container = await made(cri)
        if op is not m.Start:
            await cri("StartContainer", container_id=container)
        world.faults.refuse[op] = KILLED
        if op is m.Create:
            code, _ = await cri.refused("CreateContainer", pod_sandbox_id=pod, config=cri.config("true", name="other"))
        else:
            code, _ = await cri.refused(calls[op][0], container_id=container, **calls[op][1])  # type: ignore[arg-type]
        assert code == "UNKNOWN"
    world.faults.refuse[m.Delete] = KILLED
    world.faults.lie[m.List] = lambda true: true._replace(containers=(*true.containers, m.Container("half-made")))
    async with world.daemon() as cri:
        assert [(one.id, one.state) for one in (await cri("ListPodSandbox")).items] == [(pod, pb.SANDBOX_READY)]
        info = json.loads((await cri("PodSandboxStatus", pod_sandbox_id=pod, verbose=True)).info["info"])
        assert info["why"] == ""
        expected = pb.CONTAINER_EXITED if op is m.Start else pb.CONTAINER_RUNNING
        assert (await cri.status(container)).state == expected
        world.faults.refuse.clear()
        await cri("RemoveContainer", container_id=container)
        await cri("RemovePodSandbox", pod_sandbox_id=pod)
    assert world.left_over() == []
