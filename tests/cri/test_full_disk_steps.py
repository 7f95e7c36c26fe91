# SPDX-License-Identifier: Apache-2.0
"""Every step of a pod's life on a full disk, with instant guests: creating calls report that there is no space and are
rolled back, whatever write fails; ending calls succeed. Likewise on a disk that is read-only.
"""

import asyncio
import contextlib
import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest
from grpc import aio

from cri.config_tables import Storage
from cri.pb import runtime_pb2 as pb
from cri.storage import filling
from cri.storage.disk import reserve_of
from stage1 import engine, garbage
from stage1.linux import mount
from tests.fakes import places
from tests.fakes.cni import FakeCni
from tests.fakes.patience import PATIENCE
from tests.fakes.small_disk import SmallDisk, small_disk

from .command_rig import command, verdict
from .conftest import Client, Registered, World, copy_of_store

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
    with places.short_directory() as top, contextlib.ExitStack() as scope:
        root = Path(top)
        disks = {
            "state": scope.enter_context(small_disk(root / "disk.img", root / "disk", mib=32)),
            "run": scope.enter_context(_memory_disk(root / "run", mib=4)),
            "logs": scope.enter_context(_memory_disk(root / "logs", mib=1)),
        }
        state = copy_of_store(registered, root / "disk/state")
        world = World(root, registered._replace(state_dir=state))
        world.config = world.config.but(storage=Storage(reserve_mib=2))
        cni = FakeCni(root / "fake")
        world.host = world.host._replace(network=cni.settings._replace(cache_dir=f"{state}/cni"))
        try:
            yield Rig(world, cni, disks)
        finally:
            for disk in disks.values():
                disk.free()
            world.vmm.stop()
            for pod in engine.pod_directories(world.host):
                engine.clean_up(pod)


async def _until_it_fits(
    disk: SmallDisk, make: Callable[[], Awaitable[str]], *, check: Callable[[], None], steps: Sequence[int] = STEPS
) -> str:
    """Make it with more and more space, and return what was made; each failure names the reason, and leaves nothing."""
    failures = []
    for leave in steps:
        disk.free()
        disk.fill(leave=leave)
        try:
            made = await make()
        except aio.AioRpcError as error:
            output = (error.code().name, str(error.details()))
            assert output[0] == "RESOURCE_EXHAUSTED", (leave, output)
            failures.append(output[1])
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
async def test_run_pod_sandbox_reports_a_full_disk_and_is_rolled_back(rig: Rig, where: str) -> None:
    async with rig.world.daemon() as cri:
        pod = await _until_it_fits(rig.disks[where], cri.pod, check=lambda: _is_empty(rig))
        await cri("RemovePodSandbox", pod_sandbox_id=pod)
        assert rig.left() == []


async def test_create_container_reports_a_full_disk_and_is_rolled_back(rig: Rig) -> None:
    async with rig.world.daemon() as cri:
        pod = await cri.pod(log_directory=f"{rig.world.root}/logs/p")

        def is_empty() -> None:
            assert engine.bundles(engine.pod_directory(rig.world.host, pod)) == []

        one = await _until_it_fits(rig.disks["run"], lambda: cri.container(pod, "sleep", "1000"), check=is_empty)
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


async def test_a_network_that_can_not_be_given_back_is_written_off_on_a_full_disk_too(rig: Rig) -> None:
    async with _pod_with_container(rig) as (cri, pod, _):
        rig.cni.trouble("second", "DEL", 'echo \'{"code": 1, "msg": "no"}\'; exit 1')
        rig.disks["state"].fill()
        await cri("StopPodSandbox", pod_sandbox_id=pod)
        await cri("RemovePodSandbox", pod_sandbox_id=pod)
        rig.disks["state"].free()
        rig.cni.trouble("second", "DEL", "")
        async with asyncio.timeout(20 * PATIENCE):
            while rig.left():  # a process that ends may be in the netns still, which delays the sweep
                assert await asyncio.to_thread(garbage.networks, rig.world.host) == []
                await asyncio.sleep(0.05)


async def _kept(rig: Rig) -> None:
    """Wait until the daemon has its reserve."""
    reserve = reserve_of(rig.world.config)
    async with asyncio.timeout(20 * PATIENCE):
        while reserve.held_bytes() < rig.world.config.storage.reserve_mib << 20:
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("where", ["state", "run"])
async def test_a_pod_on_a_full_disk_is_explained_by_why_and_the_log(
    rig: Rig, where: str, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    clearpod = command(rig.world, capfd)
    async with rig.world.daemon() as cri:
        rig.disks[where].fill()
        await cri.refused("RunPodSandbox", config=cri.sandbox())
        explanation = await clearpod("why", "web", "--json")
        assert "No space left" in verdict(explanation) and str(rig.disks[where].place) in verdict(explanation)
        assert json.loads(explanation.out)["advice"]
        rig.disks[where].free()
    (line,) = [one for one in caplog.records if getattr(one, "rpc", "") == "RunPodSandbox"]
    assert (line.levelname, line.__dict__["code"]) == ("WARNING", "RESOURCE_EXHAUSTED")
    assert "No space left" in line.__dict__["error"] and line.__dict__["title"] == "pod default/web"


@pytest.mark.parametrize("where", ["state", "run"])
async def test_the_daemon_starts_on_a_full_disk_and_takes_its_pods_over(rig: Rig, where: str) -> None:
    async with _pod_with_container(rig) as (cri, pod, one):
        await cri("StartContainer", container_id=one)
        await _kept(rig)
    rig.disks[where].fill()
    async with rig.world.daemon() as cri:
        assert [item.state for item in (await cri("ListPodSandbox")).items] == [pb.SANDBOX_READY]
        await cri("RemovePodSandbox", pod_sandbox_id=pod)
        assert rig.left() == []


async def test_images_can_be_removed_on_a_full_disk_and_pulled_when_there_is_space(rig: Rig) -> None:
    image, reserve, held = pb.ImageSpec(image=rig.world.image), reserve_of(rig.world.config), list[int]()
    async with rig.world.daemon() as cri:
        await _kept(rig)
        rig.disks["state"].fill()
        await cri("RemoveImage", image=image)
        assert (await cri("ListImages")).images == []

        async def pull() -> str:
            held.append(reserve.held_bytes())
            return str((await cri("PullImage", image=image)).image_ref)

        def is_empty() -> None:
            assert os.listdir(f"{rig.world.config.state_dir}/tmp") == []

        await _until_it_fits(rig.disks["state"], pull, check=is_empty, steps=STEPS[::5])
        assert len((await cri("ListImages")).images) == 1
        disk = rig.disks["state"]
        regained = reserve.held_bytes() - held[-1]  # by the daemon, which looks after it in the background
        free = disk.free_bytes + regained
        assert free >= disk.size_bytes // filling.PART, "what is kept free for pods, no image takes"


def _break(disk: SmallDisk) -> None:
    """Make the file system read-only although files are open, as ext4 does after an error."""
    device = Path(os.path.realpath(f"/sys/dev/block/{os.major(disk.device)}:{os.minor(disk.device)}")).name
    trigger = Path(f"/sys/fs/ext4/{device}/trigger_fs_error")
    if not trigger.exists():
        pytest.skip("needs ext4's trigger_fs_error")
    trigger.write_text("broken by a test")


async def test_a_read_only_state_disk_is_named_and_pods_can_be_stopped_and_removed(
    rig: Rig, registered: Registered
) -> None:
    async with _pod_with_container(rig) as (cri, pod, one):
        await cri("StartContainer", container_id=one)
        _break(rig.disks["state"])
        for call, fields in (
            ("RunPodSandbox", {"config": cri.sandbox("other")}),
            ("PullImage", {"image": pb.ImageSpec(image=registered.absent)}),
            ("RemoveImage", {"image": pb.ImageSpec(image=rig.world.image)}),
        ):
            code, output = await cri.refused(call, **fields)
            is_named = "Read-only file system" in output or "Input/output error" in output
            assert (code, is_named) == ("UNAVAILABLE", True), (call, output)
        present = await cri("PullImage", image=pb.ImageSpec(image=rig.world.image))
        assert present.image_ref, "a pull of what is there writes nothing"
        assert (await cri("ExecSync", container_id=one, cmd=["true"], timeout=5)).exit_code == 0
        await cri("StopContainer", container_id=one, timeout=1)
        await cri("RemoveContainer", container_id=one)
        await cri("StopPodSandbox", pod_sandbox_id=pod)
        await cri("RemovePodSandbox", pod_sandbox_id=pod)
        assert (await cri("ListPodSandbox")).items == []
        assert not engine.pod_directories(rig.world.host)


async def test_pods_are_promised_no_more_of_the_disk_than_is_allowed(rig: Rig) -> None:
    rig.world.config = rig.world.config.but(storage=Storage(overcommit=1.5, reserve_mib=2))
    async with rig.world.daemon() as cri:
        await _kept(rig)
        made = await asyncio.gather(*(cri.pod(f"p{number}") for number in range(4)), return_exceptions=True)
        pods = [one for one in made if isinstance(one, str)]
        refused = [one for one in made if isinstance(one, aio.AioRpcError)]
        assert (len(pods), len(refused)) == (2, 2), "each may write 16 MiB, and there are not 32"
        for error in refused:
            assert (error.code().name, "storage.overcommit" in str(error.details())) == ("RESOURCE_EXHAUSTED", True)
        counts = json.loads((await cri("Status", verbose=True)).info["storage"])
        assert (counts["promised_bytes"], counts["reserve_bytes"]) == (32 << 20, 2 << 20)

        small = {"clearpod.io/scratch-mib": "16"}
        await cri("StopPodSandbox", pod_sandbox_id=pods[0])
        assert (await cri.refused("RunPodSandbox", config=cri.sandbox("more", annotations=small)))[0] != "OK"
        await cri("RemovePodSandbox", pod_sandbox_id=pods[0])
        await cri.pod("more", annotations=small)


async def test_a_disk_that_is_allocated_can_not_be_taken_by_others(rig: Rig) -> None:
    rig.world.host = rig.world.host._replace(allocates_scratch=True)
    async with rig.world.daemon() as cri:
        pod = await cri.pod("one")
        code, output = await cri.refused("RunPodSandbox", config=cri.sandbox("two"))
        assert (code, "fallocate" in output) == ("RESOURCE_EXHAUSTED", True)
        (image,) = Path(rig.world.config.state_dir, "scratch").iterdir()
        assert image.name == f"{pod}.img"
        rig.disks["state"].fill()
        with image.open("r+b", buffering=0) as file:
            for at in range(0, 16 << 20, 1 << 20):
                assert os.pwrite(file.fileno(), b"x" * (1 << 20), at) == 1 << 20
        await cri("RemovePodSandbox", pod_sandbox_id=pod)
        assert rig.left() == []
