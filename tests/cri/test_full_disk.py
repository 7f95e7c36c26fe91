# SPDX-License-Identifier: Apache-2.0
"""Pods on a full state disk: what the one that fills it sees, and that no other pod is affected. Real guests."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from cri.config_tables import Storage
from cri.pb import runtime_pb2 as pb
from cri.store import history
from cri.store.images import ImageStore
from stage1 import engine
from tests.fakes import places
from tests.fakes.patience import PATIENCE
from tests.fakes.small_disk import SmallDisk, small_disk

from .conftest import Client, CopyingNode, Registered, VmWorld

pytestmark = pytest.mark.vm

FILL = "tr '\\0' x </dev/zero | dd of=/fill bs=64k; sync; echo filled; sleep 1000"
KEEP_MIB = 256
"""The default; of the small disk it is a sixteenth."""
TICK = "n=0; while :; do n=$((n+1)); echo tick $n; echo $n >>/notes; sleep 0.1; done"


class Scene(NamedTuple):
    world: VmWorld
    disk: SmallDisk


@pytest.fixture
def scene(sample: Registered, guest_dir: Path) -> Iterator[Scene]:
    """Both pods may write 64 MiB, and the disk has less for them once it has been filled by others."""
    with places.short_directory() as root:
        place = Path(root, "disk")
        with small_disk(Path(root, "disk.img"), place, mib=112) as disk:
            ImageStore(f"{place}/state").close()
            made = VmWorld(Path(root), Registered(sample.reference, f"{place}/state"), guest_dir)
            storage = Storage(reserve_mib=1, keep_free_mib=0)
            made.config = made.config.but(storage=storage)
            made.make_node = CopyingNode
            try:
                yield Scene(made, disk)
            finally:
                for pod in engine.pod_directories(made.host):
                    engine.clean_up(pod)


async def _until(what: str, path: Path, limit_s: float = 60) -> None:
    async with asyncio.timeout(limit_s * PATIENCE):
        while what not in path.read_text(encoding="utf-8"):
            await asyncio.sleep(0.05)


async def _freed(disk: SmallDisk, expected: int, limit_s: float = 20) -> None:
    """The kernel lets go of a jail's mounts, and of the file below one, a moment after the VMM has ended."""
    async with asyncio.timeout(limit_s * PATIENCE):
        while disk.free_bytes < expected:
            await asyncio.sleep(0.05)


async def _runs(cri: Client, scene: Scene, *, name: str, script: str) -> tuple[str, str, Path]:
    """A pod with one running container; ids of both, and the log."""
    logs = f"{scene.world.root}/logs/{name}"
    pod = await cri.pod(name, log_directory=logs)
    container = await cri.container(pod, "sh", "-c", script, name=name)
    await cri("StartContainer", container_id=container)
    return pod, container, Path(logs, f"{name}.log")


async def _shell(cri: Client, container: str, script: str) -> tuple[int, str]:
    ran = await cri("ExecSync", container_id=container, cmd=["sh", "-c", script], timeout=round(20 * PATIENCE))
    return ran.exit_code, (ran.stdout + ran.stderr).decode()


def _ticks(log: Path) -> int:
    return log.read_text(encoding="utf-8").count(" tick ")


@pytest.mark.timeout(180)
async def test_a_pod_that_fills_the_disk_stops_no_other_pod_and_can_be_removed(scene: Scene) -> None:
    async with scene.world.daemon() as cri:
        await cri("PullImage", image=pb.ImageSpec(image=scene.world.image))
        _, neighbour, ticking = await _runs(cri, scene, name="neighbour", script=TICK)
        scene.disk.fill(leave=24 << 20)
        filler, filling, filled = await _runs(cri, scene, name="filler", script=FILL)
        await _until("filled", filled)
        assert scene.disk.free_bytes < 1 << 20

        before = _ticks(ticking)
        await _until(f" tick {before + 30}\n", ticking)
        assert (await _shell(cri, neighbour, "echo here"))[1] == "here\n"
        assert (await _shell(cri, filling, "echo there"))[1] == "there\n", "it was not stopped, only its disk is full"

        await cri("StopContainer", container_id=filling, timeout=1)
        await cri("RemoveContainer", container_id=filling)
        await cri("StopPodSandbox", pod_sandbox_id=filler)
        await cri("RemovePodSandbox", pod_sandbox_id=filler)
        await _freed(scene.disk, 16 << 20)
        assert await _shell(cri, neighbour, "echo news >/new && sync && cat /new") == (0, "news\n")


NOTE = "n=0; while :; do n=$((n+1)); echo $n >>/notes && sync || echo lost $n; echo tick $n; sleep 0.1; done"
"""As TICK, but each note is on the disk before the next."""


def _with_guard(scene: Scene) -> None:
    storage = Storage(reserve_mib=1, keep_free_mib=KEEP_MIB)
    scene.world.config = scene.world.config.but(storage=storage)


async def _why(cri: Client, pod: str) -> str:
    """Why the pod is held, or not ready."""
    reply = await cri("PodSandboxStatus", pod_sandbox_id=pod, verbose=True)
    return str(json.loads(reply.info["info"])["why"])


async def _held(cri: Client, pod: str, limit_s: float = 60) -> None:
    async with asyncio.timeout(limit_s * PATIENCE):
        while "is held" not in await _why(cri, pod):
            await asyncio.sleep(0.05)


@pytest.mark.timeout(240)
async def test_a_pod_that_fills_the_disk_is_held_until_there_is_space_and_others_lose_no_write(scene: Scene) -> None:
    _with_guard(scene)
    async with scene.world.daemon() as cri:
        await cri("PullImage", image=pb.ImageSpec(image=scene.world.image))
        _, _, noting = await _runs(cri, scene, name="neighbour", script=NOTE)
        scene.disk.fill(leave=24 << 20)
        filler, filling, filled = await _runs(cri, scene, name="filler", script=FILL)
        await _held(cri, filler)
        assert (await cri("PodSandboxStatus", pod_sandbox_id=filler)).status.state == pb.SANDBOX_READY
        before = _ticks(noting)
        await _until(f" tick {before + 30}\n", noting)
        assert "filled" not in filled.read_text(encoding="utf-8")

        scene.disk.free()
        await _until("filled", filled, 120)
        assert await _why(cri, filler) == ""
        recorded = [fact.what for fact in cri.node.pods.get(filler).status.history]
        assert recorded.index(history.HELD) < recorded.index(history.GOES_ON)
        assert (await _shell(cri, filling, "stat -c %s /fill"))[0] == 0
        assert "lost" not in noting.read_text(encoding="utf-8")


@pytest.mark.timeout(240)
async def test_a_pod_that_is_held_is_taken_over_by_the_next_daemon_and_can_be_removed(scene: Scene) -> None:
    _with_guard(scene)
    async with scene.world.daemon() as cri:
        await cri("PullImage", image=pb.ImageSpec(image=scene.world.image))
        scene.disk.fill(leave=24 << 20)
        filler, filling, _ = await _runs(cri, scene, name="filler", script=f"sleep 2; {FILL}")
        await cri("ContainerStats", container_id=filling)
        await _held(cri, filler)
        usage = (await cri("ContainerStats", container_id=filling)).stats.writable_layer
        assert usage.used_bytes.value > 8 << 20, "by what it has taken, kubelet chooses whom to evict"
    async with scene.world.daemon() as cri:
        assert (await cri("PodSandboxStatus", pod_sandbox_id=filler)).status.state == pb.SANDBOX_READY
        await cri("StopPodSandbox", pod_sandbox_id=filler)
        await cri("RemovePodSandbox", pod_sandbox_id=filler)
        await _freed(scene.disk, 16 << 20)
