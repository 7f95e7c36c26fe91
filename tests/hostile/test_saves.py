# SPDX-License-Identifier: Apache-2.0
"""An attacker in the place of an agent, or of a whole VMM, in the moment in which its pod is copied, suspended or
resumed: it fails with a sentence, its neighbours are served and copied, it can be removed, and nothing of it is left.
"""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest

from cri.pb import runtime_pb2 as pb
from cri.policy import FORK_OF, FORKABLE, SUSPEND
from stage1.snapshot.save import FORKS
from tests.fakes import places
from tests.fakes.open_policy import TEXT
from tests.fakes.patience import PACE, PATIENCE
from tests.hostile.rig import Caller, Node, node
from tests.hostile.save_attacks import COPIES, ORIGINALS, RESUMED

ATTACK_S = 1.0
GROWTH_MIB = 16
STALLED_MS = 1000.0 * PATIENCE
FOR_COPIES = ("frozen", "busy", "tuned-events", "endless", "talks", "dies")
"""Attacks that find the same where a pod is suspended."""
FAIL_TO_RESUME = ("resumed-deaf", "resumed-mute", "resumed-refuses", "resumed-dies")
STOP_S = 30
"""Two of the limits for a guest to react, and what the machine does beside."""

pytestmark = [pytest.mark.vm, pytest.mark.timeout(240)]


@pytest.fixture(scope="module")
def attacked(guest_dir: Path, reference: str) -> Iterator[Node]:
    """A node whose daemon lives through all attacks."""
    more = f"{TEXT}[vm]\nscratch_mib = 16\nreact_timeout_s = {2 * PACE}\nboot_timeout_s = {4 * PACE}"
    with places.short_directory() as root, node(Path(root), guest_dir, reference, more=more) as made:
        yield made


@pytest.fixture
def under_attack(attacked: Node) -> Iterator[Node]:
    """It has no pods."""
    yield attacked
    asyncio.run(attacked.empty())


async def failure(work: Awaitable[object]) -> str:
    """The sentence of a call that failed, and no fault of ours; empty when it was done."""
    (error,) = await asyncio.gather(work, return_exceptions=True)
    if not isinstance(error, grpc.RpcError):
        assert not isinstance(error, BaseException), error
        return ""
    text = str(error.details())
    assert error.code().name != "INTERNAL" and text != "Deadline Exceeded", text  # the latter is the client's own
    assert text.isprintable() and 10 < len(text) < 2000, text
    return text


@asynccontextmanager
async def neighbours(vms: Node) -> AsyncIterator[tuple[Caller, list[float]]]:
    """While the block runs a good pod is served, and another one is copied; in the end nothing else is left."""
    async with vms.client() as cri:
        await cri("PullImage", image=pb.ImageSpec(image=vms.reference))
        good, ticking = await cri.running("good", annotations={FORKABLE: "true"})
        await cri.times(ticking, seconds=0.3)
        before, taken = vms.rss_mib(), list[float]()
        yield cri, taken
        taken += await cri.times(ticking, seconds=0.3)
        assert max(taken) < STALLED_MS
        assert vms.rss_mib() - before < GROWTH_MIB
        copy = await cri.pod("good-copy", annotations={FORK_OF: "good"})
        made = await cri.container(copy, "sleep", "1000", name="c")
        await cri("StartContainer", container_id=made)
        assert await cri.is_ready(good) and (await cri.status(ticking)).state == pb.CONTAINER_RUNNING
        for pod in (good, copy):
            await cri("RemovePodSandbox", pod_sandbox_id=pod, deadline_s=60)
        assert (await cri("ListPodSandbox")).items == [] and os.listdir(vms.root / "run/pods") == []
        place = vms.root / "state" / FORKS
        assert not place.exists() or os.listdir(place) == []
        assert not [name for name in os.listdir(vms.root / "state/scratch") if "suspended" in name]


async def served(cri: Caller, taken: list[float]) -> None:
    """The good neighbour, meanwhile."""
    (good,) = [one.id for one in (await cri("ListPodSandbox")).items if one.metadata.name == "good"]
    (ticking,) = [one.id for one in (await cri("ListContainers")).containers if one.pod_sandbox_id == good]
    taken += await cri.times(ticking, seconds=ATTACK_S)


async def removed(cri: Caller, pod: str) -> None:
    """As a kubelet does it."""
    await cri("StopPodSandbox", pod_sandbox_id=pod, deadline_s=STOP_S)
    await cri("RemovePodSandbox", pod_sandbox_id=pod, deadline_s=STOP_S)


@pytest.mark.parametrize("attack", ORIGINALS)
async def test_an_original_that_attacks_while_it_is_copied_harms_itself_alone(under_attack: Node, attack: str) -> None:
    async with neighbours(under_attack) as (cri, taken):
        bad, _ = await cri.running("bad", hostname=f"save-{attack}", annotations={FORKABLE: "true"})
        copying = asyncio.ensure_future(failure(cri.pod("copy", hostname="copy", annotations={FORK_OF: "bad"})))
        await served(cri, taken)
        assert "bad" in {one.metadata.name for one in (await cri("ListPodSandbox")).items}
        await removed(cri, bad)
        await copying
        for one in (await cri("ListPodSandbox")).items:
            if one.metadata.name == "copy":
                await removed(cri, one.id)


@pytest.mark.parametrize("attack", COPIES)
async def test_a_copy_that_attacks_harms_neither_its_original_nor_others(under_attack: Node, attack: str) -> None:
    async with neighbours(under_attack) as (cri, taken):
        original, container = await cri.running("bad", annotations={FORKABLE: "true"})

        async def copied() -> None:
            copy = await cri.pod("copy", hostname=attack, annotations={FORK_OF: "bad"})
            made = await cri.container(copy, "sleep", "1000", name="c")
            await cri("StartContainer", container_id=made)

        known = {one.id for one in (await cri("ListPodSandbox")).items}
        copying = asyncio.ensure_future(failure(copied()))
        await served(cri, taken)
        if attack == "copy-does-not-load":  # it would for the two minutes that a large guest may take
            for new in set(os.listdir(under_attack.root / "run/pods")) - known:
                for pid in under_attack.pids(new):
                    os.kill(pid, signal.SIGKILL)
        assert (await cri("ExecSync", container_id=container, cmd=["true"])).stdout == b"tick\n"
        another = await cri.pod("another", annotations={FORK_OF: "bad"})
        await removed(cri, another)
        await removed(cri, original)
        assert await copying
        for one in (await cri("ListPodSandbox")).items:
            if one.metadata.name == "copy":
                await removed(cri, one.id)


@pytest.mark.parametrize("attack", [*(one for one in ORIGINALS if one not in FOR_COPIES), *RESUMED])
async def test_a_pod_that_attacks_while_it_is_suspended_or_resumed_harms_itself_alone(
    under_attack: Node, attack: str
) -> None:
    async with neighbours(under_attack) as (cri, taken):
        bad, _ = await cri.running("bad", hostname=f"save-{attack}", annotations={SUSPEND: "manual"})

        async def there_and_back() -> None:
            await cri.ours("SuspendPod", bad)
            await cri.ours("ResumePod", bad)

        going = asyncio.ensure_future(failure(there_and_back()))
        await served(cri, taken)
        await removed(cri, bad)
        assert await going or attack not in FAIL_TO_RESUME
