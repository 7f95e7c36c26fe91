# SPDX-License-Identifier: Apache-2.0
"""An attacker in the agent's place, and another pod: the other pod is served, the daemon does not grow."""

import asyncio
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from cri.pb import runtime_pb2 as pb
from tests.fakes import places
from tests.fakes.patience import PATIENCE
from tests.hostile.link_attacks import FLOODS
from tests.hostile.rig import Node, node

ATTACK_S = 2.0
GROWTH_MIB = 16
STALLED_MS = 1000.0 * PATIENCE
"""What no call of a neighbour may take, whatever the machine does beside: scripts/bench hostile measures."""
ADOPTED_S = 20.0

pytestmark = [pytest.mark.vm, pytest.mark.timeout(180)]


@pytest.fixture(scope="module")
def attacked(guest_dir: Path, reference: str) -> Iterator[Node]:
    """A node whose daemon lives through all attacks, but for those between which it is killed."""
    with places.short_directory() as root, node(Path(root), guest_dir, reference) as made:
        yield made


@pytest.fixture
def under_attack(attacked: Node) -> Iterator[Node]:
    """It has no pods."""
    yield attacked
    asyncio.run(attacked.empty())


@pytest.mark.parametrize("attack", FLOODS)
async def test_a_flood_costs_the_neighbour_nothing_and_the_daemon_little(under_attack: Node, attack: str) -> None:
    async with under_attack.client() as cri:
        await cri("PullImage", image=pb.ImageSpec(image=under_attack.reference))
        good, ticking = await cri.running("good")
        await cri.times(ticking, seconds=0.5)
        before = under_attack.rss_mib()
        await cri.running("bad", hostname=attack)
        taken = await cri.times(ticking, seconds=ATTACK_S)
        assert max(taken) < STALLED_MS
        assert under_attack.rss_mib() - before < GROWTH_MIB
        assert await cri.is_ready(good)


@pytest.mark.parametrize("attack", ["hello-flood", "garbage", "future-ack"])
async def test_who_breaks_the_protocol_is_cut_off_and_can_be_removed(under_attack: Node, attack: str) -> None:
    async with under_attack.client() as cri:
        await cri("PullImage", image=pb.ImageSpec(image=under_attack.reference))
        bad, container = await cri.running("bad", hostname=attack)
        await cri.not_ready(bad)
        status = await cri.ended(container)
        assert status.exit_code and status.message
        assert under_attack.pids(bad) == []
        await cri("RemovePodSandbox", pod_sandbox_id=bad)
        assert (await cri("ListPodSandbox")).items == []


@pytest.mark.parametrize("attack", ["huge-numbers", "many-interfaces", "loud-errors", "silence"])
async def test_numbers_of_one_pod_never_spoil_those_of_others(under_attack: Node, attack: str) -> None:
    async with under_attack.client() as cri:
        await cri("PullImage", image=pb.ImageSpec(image=under_attack.reference))
        good, ticking = await cri.running("good")
        await cri.running("bad", hostname=attack)
        for _ in range(3):
            assert ticking in [one.attributes.id for one in (await cri("ListContainerStats")).stats]
            assert good in [one.attributes.id for one in (await cri("ListPodSandboxStats")).stats]
            result = await cri("ListPodSandboxMetrics")
            assert good in [one.pod_sandbox_id for one in result.pod_metrics] and result.ByteSize() < 1 << 20


async def test_an_end_in_the_future_is_one_now(under_attack: Node) -> None:
    async with under_attack.client() as cri:
        await cri("PullImage", image=pb.ImageSpec(image=under_attack.reference))
        bad, container = await cri.running("bad", hostname="late-end")
        await cri("StopContainer", container_id=container, timeout=1)
        status = await cri.status(container)
        assert status.state == pb.CONTAINER_EXITED
        assert status.created_at <= status.started_at <= status.finished_at < status.created_at + 600e9
        await cri("StopPodSandbox", pod_sandbox_id=bad)
        await cri("RemovePodSandbox", pod_sandbox_id=bad)


@pytest.mark.parametrize("attack", ["inventor", "refuser", "mute"])
async def test_a_new_daemon_waits_for_no_guest_and_forgets_none(under_attack: Node, attack: str) -> None:
    async with under_attack.client() as cri:
        await cri("PullImage", image=pb.ImageSpec(image=under_attack.reference))
        good, _ = await cri.running("good")
        bad, _ = await cri.running("bad", hostname=attack)
    under_attack.kill(signal.SIGKILL)
    under_attack.start()
    async with under_attack.client() as cri:
        listed = {one.id for one in (await cri("ListPodSandbox", deadline_s=5)).items}
        assert listed == {good, bad}
        async with asyncio.timeout(ADOPTED_S * PATIENCE):
            while not await cri.is_ready(good):
                await asyncio.sleep(0.1)
            while attack != "refuser" and (await cri.is_ready(bad) or under_attack.pids(bad)):
                await asyncio.sleep(0.1)
        assert bad in {one.id for one in (await cri("ListPodSandbox")).items}
        code, _ = await cri.refused("RunPodSandbox", config=cri.sandbox("bad", hostname="good"))
        assert code == "ALREADY_EXISTS"
        await cri("RemovePodSandbox", pod_sandbox_id=bad)
        await cri.running("bad", hostname="good")
