# SPDX-License-Identifier: Apache-2.0
"""Guests that are frozen, silent or slow: stops and removals end within their grace period and 5 s, every other call
times out within its own limit and 2 s.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from cri.pb import runtime_pb2 as pb
from stage1.guest import messages as m
from tests.cri.conftest import Client, World
from tests.fakes.guest import Faults
from tests.fakes.patience import PACE, PATIENCE

REACT_S, CALL_S = 1.0, 1.5
"""What guests get here; 4 and 60 by default."""
END_S, LATE_S = REACT_S + 1, 2.0
"""What is promised beyond a grace, which is 5 s by default, and beyond any other limit."""


def freeze(faults: Faults) -> None:
    """As SIGSTOP to the VMM: nothing comes, nothing goes."""
    faults.silent = True


def deafen(faults: Faults) -> None:
    """The guest reads what is sent, and never answers."""
    faults.ignore = (m.Signal, m.Delete, m.Start, m.Exec, m.Update, m.Create, m.Shutdown, m.List)


def slow_down(faults: Faults) -> None:
    """The guest thrashes: each answer comes after half a minute, events at once."""
    faults.reply_delay_s = 30


KINDS: tuple[Callable[[Faults], None], ...] = (freeze, deafen, slow_down)
of_each_kind = pytest.mark.parametrize("ail", KINDS, ids=lambda kind: kind.__name__)


@pytest.fixture
def world(world: World) -> World:
    """Guests get less time than usual."""
    vm = world.config.vm.but(react_timeout_s=REACT_S * PACE)
    world.config = world.config.but(vm=vm)
    return world


@asynccontextmanager
async def within(limit_s: float) -> AsyncIterator[None]:
    begun = time.monotonic()
    async with asyncio.timeout(limit_s * PATIENCE + 30):
        yield
    assert time.monotonic() - begun < limit_s * PATIENCE


async def running(cri: Client, name: str = "c", pod: str = "") -> tuple[str, str]:
    """A pod with a container that runs and ignores SIGTERM."""
    pod = pod or await cri.pod(log_directory=f"{cri.node.config.run_dir}/logs")
    container = await cri.container(pod, "sh", "-c", "trap '' TERM; while :; do sleep 0.1; done", name=name)
    await cri("StartContainer", container_id=container)
    return pod, container


async def assert_removable(world: World, cri: Client, pod: str) -> None:
    async with within(END_S):
        await cri("RemovePodSandbox", pod_sandbox_id=pod)
    assert world.left_over() == []


@of_each_kind
@pytest.mark.parametrize("grace_s", [0, 1])
async def test_a_container_is_stopped_within_its_grace_and_five_seconds(
    world: World, ail: Callable[[Faults], None], grace_s: int
) -> None:
    async with world.daemon() as cri:
        pod, container = await running(cri)
        ail(world.faults)
        async with within(grace_s + END_S):
            await cri("StopContainer", container_id=container, timeout=grace_s)
        status = await cri.status(container)
        assert (status.state, status.exit_code) == (pb.CONTAINER_EXITED, 137)
        await assert_removable(world, cri, pod)


@of_each_kind
@pytest.mark.parametrize("state", ["created", "running", "exited"])
async def test_a_container_is_removed_within_five_seconds(
    world: World, ail: Callable[[Faults], None], state: str
) -> None:
    async with world.daemon() as cri:
        pod, container = await running(cri)
        if state == "created":
            container = await cri.container(pod, "true", name="other")
        if state == "exited":
            await cri("StopContainer", container_id=container, timeout=0)
        ail(world.faults)
        async with within(END_S):
            await cri("RemoveContainer", container_id=container)
        assert container not in {one.id for one in (await cri("ListContainers")).containers}
        await assert_removable(world, cri, pod)


@of_each_kind
@pytest.mark.parametrize("call", ["StopPodSandbox", "RemovePodSandbox"])
async def test_a_pod_with_many_containers_is_stopped_and_removed_within_five_seconds(
    world: World, ail: Callable[[Faults], None], call: str
) -> None:
    async with world.daemon() as cri:
        pod, container = await running(cri)
        for number in range(4):
            await running(cri, f"c{number}", pod)
        ail(world.faults)
        async with within(END_S):
            await cri(call, pod_sandbox_id=pod)
        if call == "StopPodSandbox":
            assert (await cri.status(container)).state == pb.CONTAINER_EXITED
        await assert_removable(world, cri, pod)


async def test_the_end_of_what_only_waits_costs_no_neighbour_in_its_pod(world: World) -> None:
    """A container that does not run can go later, so that the VM of the others stays."""
    async with world.daemon() as cri:
        pod, container = await running(cri)
        other = await cri.container(pod, "true", name="other")
        world.faults.ignore = m.Delete
        async with within(END_S):
            await cri("RemoveContainer", container_id=other)
        assert (await cri.status(container)).state == pb.CONTAINER_RUNNING
        world.faults.ignore = None
        assert (await cri("ExecSync", container_id=container, cmd=["true"])).exit_code == 0
        second = await cri.container(pod, "true", name="other")
        assert second != other
        await assert_removable(world, cri, pod)


PENDING = {
    "StartContainer": {},
    "UpdateContainerResources": {"linux": {"cpu_shares": 100}},
    "ExecSync": {"cmd": ["true"], "timeout": 60},
}


@pytest.mark.parametrize("pending", PENDING)
@pytest.mark.parametrize("call", ["StopContainer", "RemoveContainer", "StopPodSandbox", "RemovePodSandbox"])
async def test_what_stops_and_removes_does_not_wait_for_a_call_that_a_frozen_guest_holds_up(
    world: World, call: str, pending: str
) -> None:
    async with world.daemon() as cri:
        pod, container = await running(cri)
        if pending == "StartContainer":
            container = await cri.container(pod, "sleep", "1000", name="other")
        world.faults.silent = True
        waits = asyncio.create_task(cri.refused(pending, container_id=container, **PENDING[pending]))
        await asyncio.sleep(0.2)
        of_pod = "Sandbox" in call
        async with within(END_S):
            await cri(call, **({"pod_sandbox_id": pod} if of_pod else {"container_id": container}))
        assert (await asyncio.wait_for(waits, LATE_S * PATIENCE))[0] != "INTERNAL"
        await assert_removable(world, cri, pod)


OTHERS: dict[str, dict[str, Any]] = {
    "CreateContainer": {},
    "StartContainer": {},
    "UpdateContainerResources": {"linux": {"cpu_shares": 100}},
    "UpdatePodSandboxResources": {"resources": {"cpu_period": 100_000, "cpu_quota": 50_000}},
    "ExecSync": {"cmd": ["true"]},
}


@of_each_kind
@pytest.mark.parametrize("call", OTHERS)
async def test_every_other_call_times_out_within_its_own_limit_and_two_seconds(
    world: World, ail: Callable[[Faults], None], call: str
) -> None:
    async with world.daemon() as cri:
        pod, container = await running(cri)
        live = cri.node.pods.get(pod)
        live.tools = live.tools._replace(call_timeout_s=CALL_S * PACE)
        fields = dict(OTHERS[call])
        if call == "CreateContainer":
            fields |= {"pod_sandbox_id": pod, "config": cri.config("true", name="other")}
        elif call == "UpdatePodSandboxResources":
            fields |= {"pod_sandbox_id": pod}
        elif call == "StartContainer":
            fields |= {"container_id": await cri.container(pod, "true", name="other")}
        else:
            fields |= {"container_id": container}
        ail(world.faults)
        if call == "UpdatePodSandboxResources" and ail is deafen:
            world.faults.ignore = m.Tune
        async with within(CALL_S + LATE_S):
            code, sentence = await cri.refused(call, **fields)
        assert (code, "did not answer" in sentence) == ("DEADLINE_EXCEEDED", True)
        await assert_removable(world, cri, pod)


@of_each_kind
async def test_an_exec_with_a_limit_ends_within_it_and_two_seconds(world: World, ail: Callable[[Faults], None]) -> None:
    async with world.daemon() as cri:
        pod, container = await running(cri)
        ail(world.faults)
        async with within(1 + LATE_S):
            code, _ = await cri.refused("ExecSync", container_id=container, cmd=["true"], timeout=1)
        assert code == "DEADLINE_EXCEEDED"
        await assert_removable(world, cri, pod)


@pytest.mark.parametrize("call", ["StopContainer", "RemoveContainer", "StopPodSandbox", "RemovePodSandbox"])
async def test_the_next_daemon_takes_no_longer_to_end_what_it_has_not_taken_over(world: World, call: str) -> None:
    async with world.daemon() as cri:
        pod, container = await running(cri)
    world.faults.silent = True
    async with world.daemon(settled=False) as cri:
        async with within(END_S):
            await cri(call, **({"pod_sandbox_id": pod} if "Sandbox" in call else {"container_id": container}))
        await assert_removable(world, cri, pod)


@pytest.mark.parametrize(
    ("accel", "set_s", "react_s", "call_s"), [("kvm", 0, 4, 60), ("tcg", 0, 16, 240), ("tcg", 9, 9, 240)]
)
async def test_emulated_guests_have_four_times_as_long(
    world: World, accel: str, set_s: float, react_s: float, call_s: float
) -> None:
    world.host = world.host._replace(choice=world.host.choice._replace(accel=accel))
    world.config = world.config.but(vm=world.config.vm.but(react_timeout_s=float(set_s)))
    async with world.daemon() as cri:
        assert (cri.node.tools.react_s, cri.node.tools.call_timeout_s) == (react_s, call_s)
