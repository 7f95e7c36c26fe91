# SPDX-License-Identifier: Apache-2.0
"""A daemon that is killed while it saves a running pod, for a fork, a named snapshot or a checkpoint, and while a pod
begins with one: the source goes on, and nothing half-made stays. Real VMs, the daemon is a process.
"""

import asyncio
import os
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from cri.pb import runtime_pb2 as pb
from cri.policy import FORK_OF, FORKABLE, SNAPSHOT
from cri.snapshots.named import DIRECTORY
from stage1.rootfs import checkpoint as place
from stage1.snapshot.save import FORKS
from tests.cri.test_named import listed, ours
from tests.hostile.killed import COUNTER, count, goes_on, small_vms, until, vmms
from tests.hostile.rig import Caller, Node

pytestmark = [pytest.mark.vm, pytest.mark.timeout(600)]

SOURCE = {"annotations": {FORKABLE: "true"}}


@pytest.fixture
def vms(guest_dir: Path, reference: str) -> Iterator[Node]:
    with small_vms(guest_dir, reference) as made:
        yield made


class Killed:
    """A pod that counts, and the daemon that dies while something is done with it."""

    def __init__(self, vms: Node, output: Path) -> None:
        self.vms, self.output, self.state = vms, output, vms.root / "state"
        self.source = self.container = ""
        self.counts = list[int]()

    async def begin(self) -> None:
        async with self.vms.client() as cri:
            await cri("PullImage", image=pb.ImageSpec(image=self.vms.reference))
            self.source = await cri.pod("source", log_directory=f"{cri.logs}/source", **SOURCE)
            self.container = await cri.container(self.source, "sh", "-c", COUNTER)
            await cri("StartContainer", container_id=self.container)
            self.counts = [await count(cri, self.container)]

    async def at(self, make: Callable[[Caller], Coroutine[Any, Any, Any]], *, when: Callable[[], bool]) -> None:
        """The daemon is killed once `when` holds while it does what `make` asks for; the next one leaves the source."""
        async with self.vms.client() as cri:
            running = asyncio.ensure_future(make(cri))
            await until(lambda: when() or running.done())
            self.vms.kill()
            await asyncio.gather(running, return_exceptions=True)
        self.vms.start()
        async with self.vms.client() as cri:
            for one in (await cri("ListPodSandbox")).items:
                if one.id != self.source:  # it was ready in that moment
                    await cri("RemovePodSandbox", pod_sandbox_id=one.id)
            await until(lambda: vmms(self.vms) == 1)  # what was half made is removed beside what is asked for
            await until(lambda: self.begun() == [] and os.listdir(self.vms.root / "run/pods") == [self.source])
            self.counts.append(await count(cri, self.container))
            await goes_on(cri, self.container, self.counts[-1])

    def begun(self) -> list[Path]:
        """What is not whole, or does not stay."""
        return [*self.state.glob(f"{FORKS}/*"), *self.state.glob(f"{DIRECTORY}/.*/*")]

    def is_being_named(self, name: str) -> bool:
        return bool(list(self.state.glob(f"{DIRECTORY}/.new/*/{name}")))

    def is_another(self, file: str) -> bool:
        """Whether another pod has come so far."""
        pods = self.vms.root / "run/pods"
        return any(os.path.lexists(one / file) for one in pods.iterdir() if one.name != self.source)

    def is_more(self) -> bool:
        return vmms(self.vms) == 2

    async def is_whole(self, cri: Caller, pod: str, container: str = "") -> None:
        """A pod that was begun goes on with the counter."""
        container = container or await cri.container(pod, "sh", "-c", COUNTER)
        await cri("StartContainer", container_id=container)
        assert self.counts[0] <= await count(cri, container) and self.counts == sorted(self.counts)
        await cri("RemovePodSandbox", pod_sandbox_id=pod)
        assert self.begun() == []


async def test_the_source_of_a_fork_goes_on_and_nothing_of_the_copy_stays(vms: Node, tmp_path: Path) -> None:
    it = Killed(vms, tmp_path)
    await it.begin()

    def copy(cri: Caller) -> Any:
        return cri.pod("copy", annotations={FORK_OF: "source"})

    await it.at(copy, when=lambda: bool(list(it.state.glob(f"{FORKS}/*"))))
    await it.at(copy, when=it.is_more)
    async with vms.client() as cri:
        await it.is_whole(cri, await copy(cri))


async def test_the_source_of_a_named_snapshot_goes_on_and_nothing_half_made_stays(vms: Node, tmp_path: Path) -> None:
    it = Killed(vms, tmp_path)
    await it.begin()

    def save(cri: Caller) -> Any:
        return ours(cri, "CreateSnapshot", pod_sandbox_id=it.source, options={"name": "warm"})

    def begin(cri: Caller) -> Any:
        return cri.pod("copy", annotations={SNAPSHOT: "warm"})

    for name in (place.GUEST, place.DISK):
        await it.at(save, when=lambda name=name: it.is_being_named(name))
        async with vms.client() as cri:
            assert await listed(cri) == []
    async with vms.client() as cri:
        await save(cri)
    await it.at(begin, when=it.is_more)
    async with vms.client() as cri:
        assert [one["name"] for one in await listed(cri)] == ["warm"]
        await it.is_whole(cri, await begin(cri))


async def test_the_source_of_a_checkpoint_goes_on_and_its_directory_is_empty_or_whole(
    vms: Node, tmp_path: Path
) -> None:
    it = Killed(vms, tmp_path / "checkpoint")
    it.output.mkdir(0o700)
    await it.begin()

    def save(cri: Caller) -> Any:
        asked = {"output_path": str(it.output), "container_ids": [it.container]}
        return cri("CheckpointPod", pod_sandbox_id=it.source, deadline_s=180, **asked)

    def restore(cri: Caller) -> Any:
        asked = {"config": cri.sandbox("copy", **SOURCE), "container_configs": [cri.config("sh", "-c", COUNTER)]}
        return cri("RestorePod", checkpoint_path=str(it.output), deadline_s=180, **asked)

    for name in (place.GUEST, place.DISK):
        await it.at(save, when=(it.output / name).exists)
        assert list(it.output.iterdir()) == []
    async with vms.client() as cri:
        await save(cri)
    for file in ("scratch.img", "vm.json"):
        await it.at(restore, when=lambda file=file: it.is_another(file))
    async with vms.client() as cri:
        made = await restore(cri)
        await it.is_whole(cri, made.pod_sandbox_id, made.restored_containers[0].container_id)
