# SPDX-License-Identifier: Apache-2.0
"""Answers of a guest that are late, wrong, or report that its agent's helper was killed: a running process is never
reported as failed, and no pod is forgotten for it.
"""

import asyncio
import json

import pytest

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


async def test_a_start_that_is_answered_late_has_not_failed(world: World) -> None:
    async with world.daemon() as cri:
        _, container = await made(cri, limit_s=0.3)
        world.faults.reply_delay_s = 1.5 * PACE
        code, _ = await cri.refused("StartContainer", container_id=container)
        assert code == "DEADLINE_EXCEEDED"
        assert (await cri.status(container)).state == pb.CONTAINER_CREATED
        assert (await cri.refused("StartContainer", container_id=container))[0] == "FAILED_PRECONDITION"
        world.faults.reply_delay_s = 0
        await becomes(cri, container, pb.CONTAINER_RUNNING)
        assert (await cri("ExecSync", container_id=container, cmd=["true"])).exit_code == 0


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


async def test_unknown_containers_are_not_reported(world: World) -> None:
    async with world.daemon() as cri:
        _, container = await made(cri)
        world.faults.lie[m.Start] = lambda true: KILLED
        world.faults.ignore = m.List
        assert (await cri.refused("StartContainer", container_id=container))[0] == "UNKNOWN"
        assert (await cri.status(container)).state == pb.CONTAINER_CREATED
        world.faults.ignore = None
        world.faults.lie.clear()
        await cri("StartContainer", container_id=container)  # the guest says that it runs already
        assert (await cri.status(container)).state == pb.CONTAINER_RUNNING


async def test_a_daemon_that_ends_during_a_start_leaves_its_outcome_to_the_next(world: World) -> None:
    async with world.daemon() as cri:
        pod, container = await made(cri, limit_s=0.3)
        world.faults.reply_delay_s = 3600
        assert (await cri.refused("StartContainer", container_id=container))[0] == "DEADLINE_EXCEEDED"
    world.faults.reply_delay_s = 0
    async with world.daemon() as cri:
        assert (await cri.status(container)).state == pb.CONTAINER_RUNNING
        await cri("RemovePodSandbox", pod_sandbox_id=pod)
    assert world.left_over() == []


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
