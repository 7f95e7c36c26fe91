# SPDX-License-Identifier: Apache-2.0
"""A pod's directory and a log directory that an attacker writes into: nothing outside changes, no other pod waits.

The virtual machines are fakes; the attacker has broken out of a VMM, or is a pod that mounts a log directory.
"""

import asyncio
import os
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cri.containers import leaving
from cri.pb import runtime_pb2 as pb
from tests.fakes.patience import PATIENCE

from .conftest import World


@pytest.fixture
def canary(world: World) -> Iterator[Path]:
    """A directory of the host's that keeps its content, which looks like a pod's on all levels."""
    place = world.root / "canary"
    (place / "volumes" / "containers" / "precious").mkdir(parents=True)
    for above in ("", "volumes", "volumes/containers", "volumes/containers/precious"):
        (place / above / "file").write_text("precious")
    before = _state(place)
    yield place
    assert _state(place) == before


def _state(place: Path) -> list[tuple[str, str]]:
    return sorted((str(path), path.read_text() if path.is_file() else "") for path in place.rglob("*"))


REPLACED = [
    ("tree", ""),
    ("tree/volumes", "volumes"),
    ("tree/volumes/containers", "volumes/containers"),
    ("tree/volumes/pod", "volumes"),
    ("logs", ""),
    ("state.json", "file"),
    ("vm.json", "file"),
]


@pytest.mark.parametrize(("replaced", "to"), REPLACED)
async def test_recovery_does_not_follow_a_link_in_a_pods_directory(
    world: World, canary: Path, replaced: str, to: str
) -> None:
    async with world.daemon() as cri:
        pod = await cri.pod(log_directory=f"{world.root}/logs")
        await cri.container(pod, "true")
    place = Path(f"{world.config.run_dir}/pods/{pod}") / replaced
    place.rename(f"{place}.away")
    place.symlink_to(canary / to)
    async with world.daemon() as cri:
        other = await cri.pod("other")
        c = await cri.container(other, "echo", "well")
        await cri("StartContainer", container_id=c)
        assert (await cri.ended(c)).exit_code == 0


@pytest.mark.parametrize("what", ["CreateContainer", "ExecSync", "UpdateContainerResources", "RemoveContainer"])
async def test_a_call_about_a_pod_whose_tree_was_swapped_changes_nothing_outside(
    world: World, canary: Path, what: str
) -> None:
    async with world.daemon() as cri:
        pod = await cri.pod()
        runs = await cri.container(pod, "sleep", "1000", name="runs")
        await cri("StartContainer", container_id=runs)
        waits = await cri.container(pod, "true", name="waits")
        containers = Path(f"{world.config.run_dir}/pods/{pod}/tree/volumes/containers")
        away = containers.rename(f"{containers}.away")
        for c in (runs, waits):
            shutil.copytree(away / c, canary / c)  # as an attacker who knows the ids would wish to find it
        containers.symlink_to(canary)
        fields = {
            "CreateContainer": {"pod_sandbox_id": pod, "config": cri.config("true", name="new")},
            "ExecSync": {"container_id": runs, "cmd": ["true"]},
            "UpdateContainerResources": {
                "container_id": waits, "linux": pb.LinuxContainerResources(memory_limit_in_bytes=64 << 20)
            },
            "RemoveContainer": {"container_id": waits},
        }[what]  # fmt: skip
        if what == "RemoveContainer":  # which is answered before the files go, and these stay
            await cri(what, **fields)
            await leaving.end(cri.node.pods.get(pod))
        else:
            code, sentence = await cri.refused(what, **fields)
            assert code == "FAILED_PRECONDITION" and "symbolic link" in sentence
        assert os.listdir(canary / waits) == ["config.json"]
        for c in (runs, waits):
            shutil.rmtree(canary / c)
        containers.unlink()
        away.rename(containers)
        await cri("RemovePodSandbox", pod_sandbox_id=pod)
        assert world.left_over() == []


def _link(path: Path, canary: Path) -> None:
    path.symlink_to(canary / "file")


def _dangling(path: Path, canary: Path) -> None:
    path.symlink_to(canary / "new")


def _hard_link(path: Path, canary: Path) -> None:
    os.link(canary / "file", path)


def _fifo(path: Path, canary: Path) -> None:
    os.mkfifo(path)


def _directory(path: Path, canary: Path) -> None:
    path.mkdir()


def _device(path: Path, canary: Path) -> None:
    os.mknod(path, 0o20600, os.makedev(1, 5))


def _socket(path: Path, canary: Path) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(f"/proc/self/fd/{os.open(path.parent, os.O_PATH)}/{path.name}")


Make = Callable[[Path, Path], None]

ODD: list[tuple[Make, str]] = [
    (_link, "symbolic link"),
    (_dangling, "symbolic link"),
    (_hard_link, "2 hard links"),
    (_fifo, "FIFO"),
    (_directory, "directory"),
    (_device, "character device"),
    (_socket, "socket"),
]


@pytest.mark.parametrize(("make", "name"), ODD)
async def test_a_log_path_that_is_no_plain_file_is_refused_at_once(
    world: World, canary: Path, make: Make, name: str
) -> None:
    logs = world.root / "logs"
    (logs / "c").mkdir(parents=True)
    make(logs / "c" / "0.log", canary)
    async with world.daemon() as cri, asyncio.timeout(10 * PATIENCE):
        pod = await cri.pod(log_directory=str(logs))
        config = cri.config("true", log_path="c/0.log")
        code, sentence = await cri.refused("CreateContainer", pod_sandbox_id=pod, config=config)
        assert (code, name in sentence) == ("FAILED_PRECONDITION", True), sentence
        assert (await cri("ListContainers")).containers == []
        made = await cri.container(pod, "true", name="other", log_path="other.log")
        await cri("StartContainer", container_id=made)
        assert (await cri.ended(made)).exit_code == 0


@pytest.mark.parametrize(("make", "name"), ODD)
async def test_a_log_that_is_swapped_before_its_reopening_stays_in_the_old_file(
    world: World, canary: Path, make: Make, name: str
) -> None:
    logs = world.root / "logs"
    async with world.daemon() as cri, asyncio.timeout(20 * PATIENCE):
        pod = await cri.pod(log_directory=str(logs))
        c = await cri.container(pod, "sh", "-c", "while :; do echo tick; sleep 0.05; done", log_path="c/0.log")
        await cri("StartContainer", container_id=c)
        log = logs / "c" / "0.log"
        old = log.rename(f"{log}.1")
        make(log, canary)
        code, sentence = await cri.refused("ReopenContainerLog", container_id=c)
        assert (code, name in sentence) == ("FAILED_PRECONDITION", True), sentence
        size = old.stat().st_size
        while old.stat().st_size == size:
            await asyncio.sleep(0.05)
        if log.is_dir() and not log.is_symlink():
            log.rmdir()
        else:
            log.unlink()
        await cri("ReopenContainerLog", container_id=c)
        while not log.read_text().endswith("stdout F tick\n"):
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("make", [_link, _fifo, _hard_link])
async def test_a_daemon_that_starts_again_does_not_open_what_a_log_was_swapped_for(
    world: World, canary: Path, make: Make
) -> None:
    logs = world.root / "logs"
    async with world.daemon() as cri:
        pod = await cri.pod(log_directory=str(logs))
        c = await cri.container(pod, "sh", "-c", "while :; do echo tick; sleep 0.05; done", log_path="c/0.log")
        await cri("StartContainer", container_id=c)
    log = logs / "c" / "0.log"
    log.unlink()
    make(log, canary)
    async with asyncio.timeout(20 * PATIENCE), world.daemon() as cri:
        while "can't be opened" not in (await cri("ContainerStatus", container_id=c, verbose=True)).info["info"]:
            await asyncio.sleep(0.05)
        log.unlink()
        while not log.exists() or not log.read_text().endswith("stdout F tick\n"):
            await asyncio.sleep(0.05)
        await cri("RemovePodSandbox", pod_sandbox_id=pod)


async def test_the_log_directory_itself_may_be_reached_through_links_and_nothing_below_it(
    world: World, canary: Path
) -> None:
    (world.root / "real").mkdir()
    (world.root / "logs").symlink_to("real")
    async with world.daemon() as cri:
        pod = await cri.pod(log_directory=f"{world.root}/logs")
        c = await cri.container(pod, "echo", "well", name="well", log_path="well/0.log")
        await cri("StartContainer", container_id=c)
        await cri.ended(c)
        assert (world.root / "real" / "well" / "0.log").read_text().endswith("stdout F well\n")
        (world.root / "real" / "bad").symlink_to(canary)
        config = cri.config("true", name="bad", log_path="bad/0.log")
        assert (await cri.refused("CreateContainer", pod_sandbox_id=pod, config=config))[0] == "FAILED_PRECONDITION"


async def test_the_daemon_connects_to_no_socket_that_a_link_in_the_pods_directory_leads_to(world: World) -> None:
    async with world.daemon() as cri:
        pod = await cri.pod()
    link = Path(f"{world.config.run_dir}/pods/{pod}/agent.sock")
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(world.root / "other.sock"))
        other.listen()
        other.setblocking(False)
        link.rename(f"{link}.away")
        link.symlink_to(world.root / "other.sock")
        async with world.daemon() as cri:
            assert (await cri("PodSandboxStatus", pod_sandbox_id=pod)).status.state == pb.SANDBOX_NOTREADY
            with pytest.raises(BlockingIOError):
                other.accept()
            await cri("RemovePodSandbox", pod_sandbox_id=pod)
        assert world.left_over() == []


async def test_a_log_record_that_is_damaged_keeps_no_daemon_from_starting(world: World) -> None:
    async with world.daemon() as cri:
        pod = await cri.pod(log_directory=f"{world.root}/logs")
        c = await cri.container(pod, "sh", "-c", "while :; do echo tick; sleep 0.05; done")
        await cri("StartContainer", container_id=c)
    for number, text in enumerate((b"00000000 2\n{}", b"\xff" * 100_000)):
        Path(f"{world.config.run_dir}/pods/{pod}/logs/{c}.{number}").write_bytes(text)
    async with world.daemon() as cri:
        assert (await cri.status(c)).state == pb.CONTAINER_RUNNING
        await cri("RemovePodSandbox", pod_sandbox_id=pod)
