# SPDX-License-Identifier: Apache-2.0
"""Every step of a pod's life on a full disk, with instant guests: what makes something says that there is no space and
leaves nothing, whatever the write that fails; what ends something succeeds. Likewise on a disk that is read-only.
"""

import contextlib
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from grpc import aio

from cri.pb import runtime_pb2 as pb
from stage1 import engine, sweep
from stage1.linux import mount
from tests.fakes.cni import FakeCni
from tests.fakes.small_disk import SmallDisk, small_disk

from .conftest import Client, Registered, World

STEPS = (*range(0, 65536, 4096), *range(65536, 1 << 20, 32768), *range(1 << 20, 8 << 20, 262144))
"""How much is left free, until it is enough: so each write is the one that fails."""
DISKS = ("state", "run", "logs")


class Rig(NamedTuple):
    world: World
    cni: FakeCni
    disks: dict[str, SmallDisk]
    """The state disk (ext4), the run directory and the log disk (tmpfs)."""

    def left(self) -> list[str]:
        """What should not be there while there is no pod."""
        scratch = f"{self.world.config.state_dir}/scratch"
        disks = [str(disk.place) for disk in self.disks.values()]
        return [
            *(one for one in self.world.left_over() if one not in disks),
            *self.cni.left_over(),
            *(os.listdir(scratch) if os.path.isdir(scratch) else []),
            *os.listdir(f"{self.world.config.state_dir}/tmp"),
        ]


@contextlib.contextmanager
def _memory_disk(place: Path, *, mib: int) -> Iterator[SmallDisk]:
    place.mkdir()
    mount.mount("tmpfs", str(place), "tmpfs", data=f"size={mib}m,mode=711")
    try:
        yield SmallDisk(place)
    finally:
        for inner in reversed(mount.mounts_below(str(place))):
            mount.umount(inner, lazy=True)


@pytest.fixture
def rig(registered: Registered) -> Iterator[Rig]:
    with tempfile.TemporaryDirectory(prefix="cp", dir="/tmp") as top, contextlib.ExitStack() as scope:
        root = Path(top)
        disks = {
            "state": scope.enter_context(small_disk(root / "disk.img", root / "disk", mib=32)),
            "run": scope.enter_context(_memory_disk(root / "run", mib=4)),
            "logs": scope.enter_context(_memory_disk(root / "logs", mib=1)),
        }
        state = f"{root}/disk/state"
        shutil.copytree(registered.state_dir, state)
        world = World(root, Registered(registered.reference, state))
        cni = FakeCni(root / "fake")
        world.host = world.host._replace(network=cni.settings._replace(cache_dir=f"{state}/cni"))
        try:
            yield Rig(world, cni, disks)
        finally:
            for disk in disks.values():
                disk.free()
            world.vmm.stop()
            for pod in engine.pod_directories(world.host):
                engine.collect(pod)


async def _until_it_fits(disk: SmallDisk, make: Callable[[], Awaitable[str]], check: Callable[[], None]) -> str:
    """Make it with more and more space, and return what was made; each failure names the reason, and leaves nothing."""
    failures = []
    for leave in STEPS:
        disk.free()
        disk.fill(leave=leave)
        try:
            made = await make()
        except aio.AioRpcError as error:
            said = (error.code().name, str(error.details()))
            assert said[0] == "RESOURCE_EXHAUSTED", (leave, said)
            failures.append(said[1])
            check()
            continue
        assert failures, "it never failed"
        return made
    pytest.fail(f"it does not fit into {leave} bytes: {failures[-1]}")


@contextlib.asynccontextmanager
async def _pod_with_container(rig: Rig) -> AsyncIterator[tuple[Client, str, str]]:
    async with rig.world.daemon() as cri:
        pod = await cri.pod(log_directory=f"{rig.world.root}/logs/p")
        container = await cri.container(pod, "sleep", "1000")
        yield cri, pod, container


def _is_empty(rig: Rig) -> None:
    assert rig.left() == []


@pytest.mark.parametrize("where", ["state", "run"])
async def test_run_pod_sandbox_says_that_there_is_no_space_and_leaves_nothing(rig: Rig, where: str) -> None:
    async with rig.world.daemon() as cri:
        pod = await _until_it_fits(rig.disks[where], cri.pod, lambda: _is_empty(rig))
        await cri("RemovePodSandbox", pod_sandbox_id=pod)
        assert rig.left() == []


async def test_create_container_says_that_there_is_no_space_and_leaves_nothing(rig: Rig) -> None:
    async with rig.world.daemon() as cri:
        pod = await cri.pod(log_directory=f"{rig.world.root}/logs/p")

        def is_empty() -> None:
            assert engine.bundles(engine.pod_directory(rig.world.host, pod)) == []

        one = await _until_it_fits(rig.disks["run"], lambda: cri.container(pod, "sleep", "1000"), is_empty)
        rig.disks["run"].free()
        await cri("StartContainer", container_id=one)
        assert (await cri.status(one)).state == pb.CONTAINER_RUNNING
        await cri("RemovePodSandbox", pod_sandbox_id=pod)
        assert rig.left() == []


@pytest.mark.parametrize("where", DISKS)
async def test_a_container_starts_runs_and_ends_whatever_can_be_written_down(rig: Rig, where: str) -> None:
    async with _pod_with_container(rig) as (cri, pod, one):
        two = await cri.container(pod, "sh", "-c", "exit 3", name="two")
        rig.disks[where].fill()
        await cri("StartContainer", container_id=one)
        await cri("StartContainer", container_id=two)
        assert (await cri.ended(two)).exit_code == 3
        if where != "run":
            assert (await cri("ExecSync", container_id=one, cmd=["true"], timeout=5)).exit_code == 0
        rig.disks[where].free()
        await cri("RemovePodSandbox", pod_sandbox_id=pod)
        assert rig.left() == []


@pytest.mark.parametrize("where", DISKS)
@pytest.mark.parametrize("is_running", [False, True])
async def test_stop_and_remove_succeed_on_a_full_disk(rig: Rig, where: str, is_running: bool) -> None:
    async with _pod_with_container(rig) as (cri, pod, one):
        if is_running:
            await cri("StartContainer", container_id=one)
        rig.disks[where].fill()
        await cri("StopContainer", container_id=one, timeout=1)
        await cri("RemoveContainer", container_id=one)
        await cri("StopPodSandbox", pod_sandbox_id=pod)
        await cri("RemovePodSandbox", pod_sandbox_id=pod)
        assert rig.left() == []
        assert (await cri("ListPodSandbox")).items == []


@pytest.mark.parametrize("where", DISKS)
async def test_a_pod_is_removed_in_one_step_on_a_full_disk(rig: Rig, where: str) -> None:
    async with _pod_with_container(rig) as (cri, pod, one):
        await cri("StartContainer", container_id=one)
        rig.disks[where].fill()
        await cri("RemovePodSandbox", pod_sandbox_id=pod)
        assert rig.left() == []


async def test_a_network_that_can_not_be_given_back_is_let_go_on_a_full_disk_too(rig: Rig) -> None:
    async with _pod_with_container(rig) as (cri, pod, _):
        rig.cni.trouble("second", "DEL", 'echo \'{"code": 1, "msg": "no"}\'; exit 1')
        rig.disks["state"].fill()
        await cri("StopPodSandbox", pod_sandbox_id=pod)
        await cri("RemovePodSandbox", pod_sandbox_id=pod)
        rig.disks["state"].free()
        rig.cni.trouble("second", "DEL", "")
        assert sweep.networks(rig.world.host) == []
        assert rig.left() == []


def _break(disk: SmallDisk) -> None:
    """As ext4 does when it finds an error: from now on it is read-only, whoever has files open."""
    device = Path(os.path.realpath(f"/sys/dev/block/{os.major(disk.device)}:{os.minor(disk.device)}")).name
    trigger = Path(f"/sys/fs/ext4/{device}/trigger_fs_error")
    if not trigger.exists():
        pytest.skip("needs ext4's trigger_fs_error")
    trigger.write_text("broken by a test")


async def test_a_read_only_state_disk_is_named_and_pods_can_be_stopped_and_removed(rig: Rig) -> None:
    async with _pod_with_container(rig) as (cri, pod, one):
        await cri("StartContainer", container_id=one)
        _break(rig.disks["state"])
        for call, fields in (
            ("RunPodSandbox", {"config": cri.sandbox("other")}),
            ("PullImage", {"image": pb.ImageSpec(image=rig.world.image)}),
            ("RemoveImage", {"image": pb.ImageSpec(image=rig.world.image)}),
        ):
            code, said = await cri.refused(call, **fields)
            assert (code, "ead-only" in said or "readonly" in said) == ("UNAVAILABLE", True), (call, said)
        assert (await cri("ExecSync", container_id=one, cmd=["true"], timeout=5)).exit_code == 0
        await cri("StopContainer", container_id=one, timeout=1)
        await cri("RemoveContainer", container_id=one)
        await cri("StopPodSandbox", pod_sandbox_id=pod)
        await cri("RemovePodSandbox", pod_sandbox_id=pod)
        assert (await cri("ListPodSandbox")).items == []
        assert not engine.pod_directories(rig.world.host)
