# SPDX-License-Identifier: Apache-2.0
"""A daemon that is killed while it makes a named snapshot, or a pod begins with one: the source goes on.

Nothing half-made stays. Real VMs, the daemon is a process.
"""

import asyncio
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from cri.pb import runtime_pb2 as pb
from cri.policy import FORKABLE, SNAPSHOT
from cri.snapshots.named import DIRECTORY
from stage1.rootfs import checkpoint as place
from tests.cri.test_named import listed, ours
from tests.hostile.killed import COUNTER, count, goes_on, small_vms, until, vmms
from tests.hostile.rig import Node

pytestmark = [pytest.mark.vm, pytest.mark.timeout(300)]


@pytest.fixture
def vms(guest_dir: Path, reference: str) -> Iterator[Node]:
    with small_vms(guest_dir, reference) as made:
        yield made


def top(vms: Node) -> Path:
    return vms.root / "state" / DIRECTORY


def is_begun(vms: Node, name: str) -> bool:
    """Whether this file of a snapshot is being written."""
    return bool(list(top(vms).glob(f".new/*/{name}")))


async def killed(vms: Node, call: Any, when: Callable[[], bool]) -> None:
    """The daemon, once `when` holds while it carries out the call; another one is started."""
    running = asyncio.ensure_future(call)
    await until(lambda: when() or running.done())
    vms.kill()
    await asyncio.gather(running, return_exceptions=True)
    vms.start()


async def test_the_source_goes_on_and_nothing_half_made_stays(vms: Node) -> None:
    async with vms.client() as cri:
        await cri("PullImage", image=pb.ImageSpec(image=vms.reference))
        source = await cri.pod("source", annotations={FORKABLE: "true"}, log_directory=f"{cri.logs}/source")
        container = await cri.container(source, "sh", "-c", COUNTER)
        await cri("StartContainer", container_id=container)
        counts = [await count(cri, container)]
    making = {"pod_sandbox_id": source, "options": {"name": "warm"}}
    for name in (place.GUEST, place.DISK):
        async with vms.client() as cri:
            begun = partial(is_begun, vms, name)
            await killed(vms, ours(cri, "CreateSnapshot", **making), begun)
        async with vms.client() as cri:
            counts.append(await count(cri, container))
            assert await listed(cri) == [] and not list(top(vms).rglob("*/*"))
            await goes_on(cri, container, counts[-1])
    async with vms.client() as cri:
        await ours(cri, "CreateSnapshot", **making)
        await killed(vms, cri.pod("copy", annotations={SNAPSHOT: "warm"}), lambda: vmms(vms) == 2)
    async with vms.client() as cri:
        for one in (await cri("ListPodSandbox")).items:
            if one.id != source:  # it was ready in that moment
                await cri("RemovePodSandbox", pod_sandbox_id=one.id)
        await until(lambda: vmms(vms) == 1)
        await until(lambda: not list(top(vms).glob(".*/*")) and os.listdir(vms.root / "run/pods") == [source])
        copy = await cri.pod("copy", annotations={SNAPSHOT: "warm"})
        made = await cri.container(copy, "sh", "-c", COUNTER)
        await cri("StartContainer", container_id=made)
        counts.append(await count(cri, container))
        assert counts[0] <= await count(cri, made) and counts == sorted(counts)
        assert os.listdir(top(vms) / ".lent") == []
