# SPDX-License-Identifier: Apache-2.0
"""Log files as kubelet and `crictl logs` see them: rotated, killed under, on a full disk, with endless lines."""

import asyncio
import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from grpc import aio

from cri.pb import runtime_pb2 as pb
from stage1.linux import mount
from tests.fakes.patience import PATIENCE

from .conftest import Client, VmWorld, World
from .kept_pod import kept_vms, kept_world, running_in_kept_pod
from .test_recovery import _client, _process

__all__ = ["kept_vms", "kept_world"]

COUNT, LONG = 20_000, 100_000
"""Lines: enough for a guest under emulation, and for one that is a process of this machine."""


def _counting(count: int = COUNT) -> str:
    return f"i=0; while [ $i -lt {count} ]; do i=$((i+1)); echo $i; done; exit 3"


def _numbers(count: int = COUNT) -> bytes:
    return b"".join(b"%d\n" % n for n in range(1, count + 1))


def _joined(log: Path) -> bytes:
    """The text of a log and its rotations, as a reader puts it together; a line that is no entry fails."""
    result = b""
    for path in [*sorted(log.parent.glob(f"{log.name}.*")), *([log] if log.exists() else [])]:
        for line in path.read_bytes().splitlines():
            _, stream, tag, text = line.split(b" ", 3)
            assert stream in (b"stdout", b"stderr")
            result += text + {b"F": b"\n", b"P": b""}[tag]
    return result


async def _rotate(cri: Client, c: str, log: Path, *, number: int) -> None:
    """As kubelet does."""
    log.rename(f"{log}.{number:04}")
    await cri("ReopenContainerLog", container_id=c)
    assert log.exists(), "the new file is there when the call returns"


async def test_rotation_under_heavy_output_loses_and_doubles_nothing(kept_world: World) -> None:
    count = COUNT if isinstance(kept_world, VmWorld) else LONG
    async with kept_world.daemon() as cri:
        c = await running_in_kept_pod(cri, kept_world, "sh", "-c", f"sleep 1; {_counting(count)}")
        log = Path((await cri.status(c)).log_path)
        for number in range(200):
            if (await cri.status(c)).state != pb.CONTAINER_RUNNING:
                break
            with contextlib.suppress(Exception):  # it may have ended just now; a file that is renamed stays whole
                await _rotate(cri, c, log, number=number)
            await asyncio.sleep(0.02)
        assert (await cri.ended(c)).exit_code == 3
        assert number > 0, "nothing was rotated"
        assert _joined(log) == _numbers(count)


async def test_a_daemon_that_is_killed_while_logs_are_rotated_loses_and_doubles_nothing(world: World) -> None:
    pod = c = ""
    log = Path()
    for number in range(6):
        with _process(world) as process:
            cri = await _client(world)
            if not pod:
                pod = await cri.pod(log_directory=f"{world.root}/logs")
                c = await cri.container(pod, "sh", "-c", _counting())
                await cri("StartContainer", container_id=c)
                log = Path((await cri.status(c)).log_path)
            await asyncio.sleep(0.03 * number)
            log.rename(f"{log}.{number:04}")
            if number % 3:
                process.kill()  # between the rename and the call
            else:
                try:
                    await cri("ReopenContainerLog", container_id=c)
                except aio.AioRpcError:  # it has ended
                    Path(f"{log}.{number:04}").rename(log)
            process.kill()
            process.wait()
            await cri.close()
        if not log.exists() and number % 3 == 1:
            Path(f"{log}.{number:04}").rename(log)  # kubelet takes the rename back when the call has failed
    with _process(world):
        cri = await _client(world)
        assert (await cri.ended(c)).exit_code == 3
        assert _joined(log) == _numbers()
        await cri("RemovePodSandbox", pod_sandbox_id=pod)
        await cri.close()


async def test_lines_of_any_length_and_an_unfinished_last_one_are_complete(kept_world: World) -> None:
    script = "head -c 100000 /dev/zero | tr '\\0' a; echo; echo; head -c 16384 /dev/zero | tr '\\0' b; echo; printf end"
    async with kept_world.daemon() as cri:
        c = await running_in_kept_pod(cri, kept_world, "sh", "-c", script)
        log = Path((await cri.ended(c)).log_path)
        assert _joined(log) == b"a" * 100_000 + b"\n\n" + b"b" * 16384 + b"\nend"
        assert max(len(line.split(b" ", 3)[3]) for line in log.read_bytes().splitlines()) == 16384


@pytest.fixture
def small_disk(world: World) -> Iterator[Path]:
    place = world.root / "small"
    place.mkdir()
    mount.mount("tmpfs", str(place), "tmpfs", data="size=256k")
    yield place
    mount.umount(str(place), lazy=True)


async def test_a_full_log_disk_slows_only_its_container(world: World, small_disk: Path) -> None:
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(200 << 10))
    async with world.daemon() as cri:
        full = await cri.pod("full", log_directory=str(small_disk))
        c = await cri.container(full, "sh", "-c", _counting(LONG))
        await cri("StartContainer", container_id=c)
        log = small_disk / "c.log"
        async with asyncio.timeout(20 * PATIENCE):
            while "can't be written" not in (await cri("ContainerStatus", container_id=c, verbose=True)).info["info"]:
                await asyncio.sleep(0.05)
        other = await cri.pod("other", log_directory=f"{world.root}/logs")
        d = await cri.container(other, "sh", "-c", "echo well")
        await cri("StartContainer", container_id=d)
        await cri.ended(d)
        assert _joined(Path(f"{world.root}/logs/c.log")) == b"well\n"
        assert (await cri("ExecSync", container_id=c, cmd=["echo", "still here"])).stdout == b"still here\n"
        assert (await cri.status(c)).state == pb.CONTAINER_RUNNING, "it waits for its log"
    async with world.daemon() as cri:  # and the next daemon waits too
        assert (await cri.status(c)).state == pb.CONTAINER_RUNNING
        ballast.unlink()
        mount.mount("tmpfs", str(small_disk), "tmpfs", mount.MS_REMOUNT, data="size=16m")
        assert (await cri.ended(c)).exit_code == 3
        async with asyncio.timeout(10 * PATIENCE):
            while not log.read_bytes().endswith(b" %d\n" % LONG):
                await asyncio.sleep(0.1)
        assert _joined(log) == _numbers(LONG)


async def test_a_commit_record_that_can_not_be_written_loses_and_doubles_nothing(world: World) -> None:
    async with world.daemon() as cri:
        pod = await cri.pod(log_directory=f"{world.root}/logs")
        c = await cri.container(pod, "sh", "-c", _counting(LONG))
        records = Path(f"{world.config.run_dir}/pods/{pod}/logs")
        await cri("StartContainer", container_id=c)
        records.rename(f"{records}.away")
        await asyncio.sleep(1)
        Path(f"{records}.away").rename(records)
        assert (await cri.ended(c)).exit_code == 3
        assert _joined(Path(f"{world.root}/logs/c.log")) == _numbers(LONG)


async def test_a_log_that_can_not_be_made_is_reported_at_once_and_leaves_nothing(world: World) -> None:
    place = world.root / "logs"
    place.write_text("a file in the place of the directory")
    async with world.daemon() as cri:
        pod = await cri.pod(log_directory=str(place))
        code, sentence = await cri.refused("CreateContainer", pod_sandbox_id=pod, config=cri.config("true"))
        assert code == "FAILED_PRECONDITION"
        assert str(place) in sentence
        assert (await cri("ListContainers")).containers == []
        assert os.listdir(f"{world.config.run_dir}/pods/{pod}/logs") == []
        place.unlink()
        await cri.container(pod, "true")


@pytest.mark.parametrize("state", ["created", "exited"])
async def test_only_a_running_containers_log_is_reopened(world: World, state: str) -> None:
    async with world.daemon() as cri:
        pod = await cri.pod(log_directory=f"{world.root}/logs")
        c = await cri.container(pod, "true")
        if state == "exited":
            await cri("StartContainer", container_id=c)
            await cri.ended(c)
        log = Path((await cri.status(c)).log_path)
        log.rename(f"{log}.1")
        assert (await cri.refused("ReopenContainerLog", container_id=c))[0] == "FAILED_PRECONDITION"
        assert not log.exists()
