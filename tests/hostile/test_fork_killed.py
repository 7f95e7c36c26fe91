# SPDX-License-Identifier: Apache-2.0
"""A daemon that is killed while it copies a running pod: the original goes on, and nothing of the copy stays. Real VMs,
the daemon is a process.
"""

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from cri.pb import runtime_pb2 as pb
from cri.policy import FORK_OF, FORKABLE
from stage1.snapshot.save import FORKS
from tests.hostile.killed import COUNTER, count, goes_on, small_vms, until, vmms
from tests.hostile.rig import Node

pytestmark = [pytest.mark.vm, pytest.mark.timeout(300)]

MOMENTS = ("saved", "loaded")


@pytest.fixture
def vms(guest_dir: Path, reference: str) -> Iterator[Node]:
    with small_vms(guest_dir, reference) as made:
        yield made


def forks(vms: Node) -> list[str]:
    place = vms.root / "state" / FORKS
    return os.listdir(place) if place.exists() else []


async def test_the_original_goes_on_and_nothing_of_the_copy_stays(vms: Node) -> None:
    async with vms.client() as cri:
        await cri("PullImage", image=pb.ImageSpec(image=vms.reference))
        original = await cri.pod("original", annotations={FORKABLE: "true"}, log_directory=f"{cri.logs}/original")
        container = await cri.container(original, "sh", "-c", COUNTER)
        await cri("StartContainer", container_id=container)
        before = await count(cri, container)
    for moment in MOMENTS:
        async with vms.client() as cri:
            copying = asyncio.ensure_future(cri.pod("copy", annotations={FORK_OF: "original"}))
            await until((lambda: bool(forks(vms))) if moment == "saved" else (lambda: vmms(vms) == 2))
            vms.kill()
            await asyncio.gather(copying, return_exceptions=True)
        vms.start()
        async with vms.client() as cri:
            for one in (await cri("ListPodSandbox")).items:
                if one.id != original:  # it was ready in that moment
                    await cri("RemovePodSandbox", pod_sandbox_id=one.id)
            await until(lambda: vmms(vms) == 1)  # what was half made is removed beside what is asked for
            await until(lambda: forks(vms) == [] and os.listdir(vms.root / "run/pods") == [original])
            now = await count(cri, container)
            assert before <= now
            await goes_on(cri, container, now)
    async with vms.client() as cri:
        copy = await cri.pod("copy", annotations={FORK_OF: "original"})
        made = await cri.container(copy, "sh", "-c", COUNTER)
        await cri("StartContainer", container_id=made)
        assert before <= await count(cri, made) and forks(vms) == []
