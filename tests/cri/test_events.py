# SPDX-License-Identifier: Apache-2.0
"""GetContainerEvents: events come in order, to all subscribers, and wait for none."""

import asyncio
from typing import Any

import pytest

from cri import events
from cri.events import Bus, Event
from cri.pb import runtime_pb2 as pb
from stage1.errors import NoSpace
from stage1.guest import messages
from tests.fakes.patience import PATIENCE

from .conftest import Client, World

CREATED, STARTED, STOPPED, DELETED = range(4)


class Listener:
    """Collects events in the background."""

    def __init__(self, cri: Client) -> None:
        self._call = cri.stream("GetContainerEvents", deadline_s=None)
        self.seen: list[pb.ContainerEventResponse] = []
        self._task = asyncio.create_task(self._listen())

    async def _listen(self) -> None:
        async for event in self._call:
            self.seen.append(event)

    async def until(self, count: int) -> list[tuple[str, int]]:
        """The first `count` events: id and kind."""
        async with asyncio.timeout(10 * PATIENCE):
            while len(self.seen) < count:
                await asyncio.sleep(0.01)
        return [(event.container_id, event.container_event_type) for event in self.seen]

    async def ended(self) -> BaseException | None:
        """The error that it ended with."""
        await asyncio.wait({self._task}, timeout=10 * PATIENCE)
        return self._task.exception()

    async def close(self) -> None:
        self._call.cancel()
        await asyncio.wait({self._task})


async def _listening(cri: Client, count: int = 1) -> list[Listener]:
    result = [Listener(cri) for _ in range(count)]
    async with asyncio.timeout(5 * PATIENCE):
        while len(cri.node.events._subscriptions) < count:
            await asyncio.sleep(0.01)
    return result


@pytest.mark.parametrize("prewarmed", [0, 1])
async def test_there_is_no_event_of_the_end_of_a_pod_that_never_existed(world: World, prewarmed: int) -> None:
    """Its VM ends while the pod is made, in which another one may take its place."""
    world.warm(prewarmed)
    async with world.daemon() as cri:
        if prewarmed:
            await cri.warmed(prewarmed)
        (listener,) = await _listening(cri)
        world.faults.die_on = messages.Configure
        await cri.refused("RunPodSandbox", config=cri.sandbox())
        world.faults.die_on = None
        pod = await cri.pod()
        assert await listener.until(2) == [(pod, CREATED), (pod, STARTED)]
        await listener.close()


async def test_every_subscriber_gets_the_life_of_a_pod(world: World) -> None:
    async with world.daemon() as cri:
        await cri.pod("before")
        listeners = await _listening(cri, 3)
        pod = await cri.pod()
        c = await cri.container(pod, "true")
        await cri("StartContainer", container_id=c)
        await cri.ended(c)
        await cri("RemoveContainer", container_id=c)
        d = await cri.container(pod, "sleep", "1000", name="d")
        await cri("StartContainer", container_id=d)
        await cri("StopPodSandbox", pod_sandbox_id=pod)
        await cri("RemovePodSandbox", pod_sandbox_id=pod)
        expected = [(pod, CREATED), (pod, STARTED), (c, CREATED), (c, STARTED), (c, STOPPED), (c, DELETED)]
        expected += [(d, CREATED), (d, STARTED), (d, STOPPED), (pod, STOPPED), (d, DELETED), (pod, DELETED)]
        for listener in listeners:
            assert await listener.until(len(expected)) == expected
            started, last = listener.seen[3], listener.seen[-1]
            assert started.pod_sandbox_status.state == pb.SANDBOX_READY
            assert [(one.id, one.state) for one in started.containers_statuses] == [(c, pb.CONTAINER_RUNNING)]
            assert started.created_at > 0
            assert not last.HasField("pod_sandbox_status")
            assert listener.seen[9].pod_sandbox_status.state == pb.SANDBOX_NOTREADY
            await listener.close()


async def test_the_death_of_a_vm_is_reported(world: World) -> None:
    async with world.daemon() as cri:
        pod = await cri.pod()
        c = await cri.container(pod, "sleep", "1000")
        await cri("StartContainer", container_id=c)
        (listener,) = await _listening(cri)
        world.vmm.stop()
        assert await listener.until(2) == [(c, STOPPED), (pod, STOPPED)]
        await listener.close()


async def test_a_listener_that_goes_away_is_forgotten(world: World) -> None:
    async with world.daemon() as cri:
        (listener,) = await _listening(cri)
        await listener.close()
        async with asyncio.timeout(5 * PATIENCE):
            while cri.node.events._subscriptions:
                await asyncio.sleep(0.01)


async def test_a_listener_comes_to_an_end_with_the_daemon(world: World) -> None:
    async with world.daemon() as cri:
        (listener,) = await _listening(cri)
        pod = await cri.pod()
        cri.node.events.close()
        assert await listener.ended() is None, "no error"
        assert [event.container_id for event in listener.seen] == [pod, pod], "and misses nothing"


async def test_a_slow_subscriber_is_dropped_with_an_error_and_others_get_everything() -> None:
    bus = Bus()
    slow = bus.subscribe(lambda what: what.subject)
    heard: list[Any] = []
    for number in range(events.MOST_QUEUED + 1):
        quick = bus.subscribe(lambda what: what.subject)
        bus.publish(Event(events.CREATED, None, str(number)))
        heard.append(await anext(aiter(quick)))
        quick.close()
    assert len(heard) == events.MOST_QUEUED + 1
    late = aiter(slow)
    assert [await anext(late) for _ in range(events.MOST_QUEUED)] == [
        str(number) for number in range(events.MOST_QUEUED)
    ]
    with pytest.raises(NoSpace, match="events behind"):
        await anext(late)
