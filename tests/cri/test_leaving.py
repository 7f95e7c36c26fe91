# SPDX-License-Identifier: Apache-2.0
"""What is left of a removed container is cleared away after the answer: it takes no room of the next container, and no
daemon that ends before leaves anything for ever.
"""

import asyncio
import os
from pathlib import Path

import pytest

from cri.containers import discard, leaving
from stage1 import engine
from stage1.guest import messages as m
from tests.cri.conftest import Client, World
from tests.fakes.patience import PACE, PATIENCE


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is cleared away by itself."""
    monkeypatch.setattr(leaving, "LATER_S", 1000.0)


async def in_guest(cri: Client, pod: str) -> list[str]:
    reply = await cri.node.pods.get(pod).call(m.List())
    return [one.id for one in reply.containers]


def on_host(world: World, pod: str) -> list[str]:
    """The names of bundles and of the logs' records."""
    directory = engine.pod_directory(world.host, pod)
    logs = os.listdir(f"{directory}/logs") if os.path.isdir(f"{directory}/logs") else []
    return sorted([*engine.bundles(directory), *{name.partition(".")[0] for name in logs}])


async def cleared(cri: Client, world: World, pod: str) -> None:
    async with asyncio.timeout(20 * PATIENCE):
        while await in_guest(cri, pod) or on_host(world, pod):
            await asyncio.sleep(0.02)


async def removed(cri: Client, *, count: int = 1) -> tuple[str, list[str]]:
    """A pod, and containers that were removed from it."""
    pod = await cri.pod(log_directory=f"{cri.node.config.run_dir}/logs")
    made = [await cri.container(pod, "sleep", "1000", name=f"c{number}") for number in range(count)]
    for container in made:
        await cri("StartContainer", container_id=container)
    for container in made:
        await cri("RemoveContainer", container_id=container)
    return pod, made


async def test_a_removed_container_is_gone_for_clients_at_once_and_from_guest_and_host_soon(world: World) -> None:
    async with world.daemon() as cri:
        pod, (container,) = await removed(cri)
        assert (await cri("ListContainers")).containers == []
        assert (await cri.refused("ContainerStatus", container_id=container))[0] == "NOT_FOUND"
        assert container not in Path(engine.pod_directory(world.host, pod), "state.json").read_text()
        await cleared(cri, world, pod)
        assert (await cri("PodSandboxStatus", pod_sandbox_id=pod)).status.state == 0
        await cri("RemovePodSandbox", pod_sandbox_id=pod)
    assert world.left_over() == []


async def test_the_answer_does_not_wait_for_the_guest_to_remove_its_part(world: World) -> None:
    async with world.daemon() as cri:
        pod = await cri.pod()
        container = await cri.container(pod, "sleep", "1000")
        world.faults.ignore = m.Delete
        await cri("RemoveContainer", container_id=container, deadline_s=5)
        world.faults.ignore = None
        await cri("RemovePodSandbox", pod_sandbox_id=pod)
    assert world.left_over() == []


async def test_the_next_container_finds_all_the_room(world: World, later: None) -> None:
    async with world.daemon() as cri:
        pod, (container,) = await removed(cri)
        assert await in_guest(cri, pod) == [container] and set(on_host(world, pod)) == {container}
        other = await cri.container(pod, "sleep", "1000", name="c0")
        assert await in_guest(cri, pod) == [other] and set(on_host(world, pod)) == {other}


@pytest.mark.parametrize("end", ["StopPodSandbox", "RemovePodSandbox"])
async def test_a_pod_ends_without_waiting_for_what_is_left(world: World, later: None, end: str) -> None:
    async with world.daemon() as cri:
        pod, _ = await removed(cri)
        await cri(end, pod_sandbox_id=pod)
        await cri("RemovePodSandbox", pod_sandbox_id=pod)
        assert cri.node.pods.find(pod) is None
    assert world.left_over() == []


async def test_only_some_are_left_at_once(world: World, later: None) -> None:
    async with world.daemon() as cri:
        pod, _ = await removed(cri, count=leaving.MOST + 1)
        assert await in_guest(cri, pod) == []


async def test_what_a_daemon_that_ends_has_left_is_removed_by_the_next_one(world: World, later: None) -> None:
    async with world.daemon() as cri:
        pod, (container,) = await removed(cri)
        assert await in_guest(cri, pod) == [container]
    async with world.daemon() as cri:
        assert (await cri("ListContainers")).containers == []
        await cri.container(pod, "sleep", "1000", name="c0")
        async with asyncio.timeout(20 * PATIENCE):
            while container in (*await in_guest(cri, pod), *on_host(world, pod)):
                await asyncio.sleep(0.02)
        await cri("RemovePodSandbox", pod_sandbox_id=pod)
    assert world.left_over() == []


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a guest refuses is asked for again at once."""
    monkeypatch.setattr(discard, "FIRST_PAUSE_S", 0.05 * PACE)


async def test_a_guest_that_refuses_is_asked_again(world: World, soon: None) -> None:
    async with world.daemon() as cri:
        world.faults.refuse[m.Delete] = m.Reply(code=m.FAILED, error="not now")
        pod, (container,) = await removed(cri)
        assert (await cri("ListContainers")).containers == []
        await asyncio.sleep(0.3)
        assert await in_guest(cri, pod) == [container]
        world.faults.refuse.clear()
        await cleared(cri, world, pod)
