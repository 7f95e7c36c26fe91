# SPDX-License-Identifier: Apache-2.0
"""Volumes of the host in pods of the CRI: databases and git on them, daemons that come and go, the end of a VM."""

import asyncio
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from cri.pb import runtime_pb2 as pb
from stage1 import engine
from stage1.linux.host import which
from tests.fakes.hypervisors import hypervisor, pytest_generate_tests
from tests.fakes.patience import PATIENCE

from .conftest import Client, Registered, VmWorld, vm_world
from .one_pod import machine

__all__ = ["hypervisor", "pytest_generate_tests"]
pytestmark = [pytest.mark.vm, pytest.mark.timeout(180 * PATIENCE)]
SAVED = {"copied": "", "saved": "manual"}
"""Two pods: one that is a copy of a template, and one that can be suspended."""
STAYS = ("sh", "-c", "trap 'exit 0' TERM; while :; do sleep 0.2; done")


@pytest.fixture
def world(tmp_path: Path, guest_dir: Path, hypervisor: str) -> Iterator[VmWorld]:
    with machine(tmp_path, guest_dir, hypervisor=hypervisor) as made:
        yield made


async def _said(cri: Client, container: str, *command: str) -> str:
    reply = await cri("ExecSync", container_id=container, cmd=command, timeout=100, deadline_s=120)
    assert reply.exit_code == 0, (command, reply)
    return str(reply.stdout.decode().strip())


async def _started(cri: Client, pod: str, name: str, *mounts: pb.Mount) -> str:
    made = await cri.container(pod, *STAYS, name=name, mounts=mounts)
    await cri("StartContainer", container_id=made)
    return made


def _with_libraries(place: Path, *programs: str) -> None:
    """The host's programs and what they load, so that they run in any image as `run PROGRAM`."""
    (place / "lib").mkdir()
    for program in programs:
        shutil.copy(which(program), place / program)
        listed = subprocess.run(["ldd", which(program)], capture_output=True, text=True, check=True, timeout=30).stdout
        for path in (word for word in listed.split() if word.startswith("/")):
            shutil.copy(path, place / "lib")
    loader = "/tools/lib/ld-linux-x86-64.so.2 --library-path /tools/lib"
    (place / "run").write_text(f'#!/bin/sh\np=$1; shift\nexec {loader} /tools/$p "$@"\n')
    (place / "run").chmod(0o755)


async def test_databases_and_git_work_on_a_directory_of_the_host(world: VmWorld) -> None:
    """SQLite's WAL maps a file shared and locks it; both containers use it at a time."""
    if not (which("sqlite3") and which("git")):
        pytest.skip("needs sqlite3 and git")
    data, tools = world.root / "data", world.root / "tools"
    data.mkdir()
    tools.mkdir()
    _with_libraries(tools, "sqlite3", "git")
    mounts = (
        pb.Mount(host_path=str(data), container_path="/data"),
        pb.Mount(host_path=str(tools), container_path="/tools", readonly=True),
    )
    insert = "i=0; while [ $i -lt 40 ]; do echo \"INSERT INTO rows VALUES ('$0', $i);\"; i=$((i+1)); done"
    adds = f"({insert}) | /tools/run sqlite3 -cmd '.timeout 30000' /data/base.db"
    async with world.daemon() as cri:
        await cri("PullImage", image=pb.ImageSpec(image=cri.image))
        pod = await cri.pod(log_directory=f"{world.root}/logs")
        first, second = [await _started(cri, pod, name, *mounts) for name in ("first", "second")]
        made = "PRAGMA journal_mode=WAL; CREATE TABLE rows (who, number);"
        assert await _said(cri, first, "/tools/run", "sqlite3", "/data/base.db", made) == "wal"
        await asyncio.gather(*(_said(cri, one, "sh", "-c", adds, one) for one in (first, second)))
        asked = "SELECT who, count(*) FROM rows GROUP BY who; PRAGMA integrity_check;"
        lines = (await _said(cri, second, "/tools/run", "sqlite3", "/data/base.db", asked)).splitlines()
        assert sorted(lines) == sorted((f"{first}|40", f"{second}|40", "ok"))
        script = """
            export HOME=/tmp GIT_CONFIG_NOSYSTEM=1; cd /data
            g='/tools/run git -c user.name=a -c user.email=a@b -c maintenance.auto=0'
            $g init -q repository; cd repository; for i in 1 2 3; do mkdir -p d$i; echo $i >d$i/f; done
            $g add .; $g commit -qm one; $g status --porcelain; $g show HEAD:d3/f
        """
        assert (await _said(cri, first, "sh", "-ec", script)).splitlines()[-1] == "3"
        assert (data / "repository/d3/f").read_text() == "3\n"
        await cri("RemovePodSandbox", pod_sandbox_id=pod)
    assert world.left_over() == []


async def test_files_are_written_while_a_daemon_comes_and_goes_and_the_vm_ends_with_its_server(world: VmWorld) -> None:
    data = world.root / "data"
    data.mkdir()
    mount = pb.Mount(host_path=str(data), container_path="/data")
    async with world.daemon() as cri:
        await cri("PullImage", image=pb.ImageSpec(image=cri.image))
        pod = await cri.pod(log_directory=f"{world.root}/logs")
        writes = "i=0; while :; do i=$((i+1)); echo $i >>/data/log; done"
        c = await cri.container(pod, "sh", "-c", writes, mounts=[mount])
        await cri("StartContainer", container_id=c)
    begun = (data / "log").stat().st_size if (data / "log").exists() else 0
    await asyncio.sleep(2)
    assert (data / "log").stat().st_size > begun, "without a daemon"
    async with world.daemon() as cri:
        adopted = await _started(cri, pod, "second", mount)
        assert int(await _said(cri, adopted, "sh", "-c", "tail -n 1 /data/log")) > 0
        (directory,) = engine.pod_directories(world.host)
        vm = engine.recorded_vm(directory)
        assert vm is not None and vm.server
        os.kill(vm.server[0], signal.SIGKILL)
        assert (await cri.ended(c)).exit_code != 0
        numbers = [int(line) for line in (data / "log").read_text().splitlines()]
        assert numbers == list(range(1, len(numbers) + 1)), "each write is whole, and on the host"
        await cri("RemovePodSandbox", pod_sandbox_id=pod)
    assert world.left_over() == []


async def test_a_copy_of_a_template_has_volumes_and_can_not_be_saved_with_them(
    sample: Registered, guest_dir: Path
) -> None:
    with vm_world(sample, guest_dir, copies=True) as world:
        data = world.root / "data"
        data.mkdir()
        mount = pb.Mount(host_path=str(data), container_path="/data")
        async with world.daemon() as cri:
            await cri("PullImage", image=pb.ImageSpec(image=cri.image))
            pods = [await cri.pod(name, annotations={"clearpod.io/suspend": kind}) for name, kind in SAVED.items()]
            made = [await _started(cri, pod, "main", mount) for pod in pods]
            for number, container in enumerate(made):
                await _said(cri, container, "sh", "-c", f"echo {number} >>/data/log")
            assert (data / "log").read_text() == "0\n1\n"
            with pytest.raises(grpc.RpcError, match="/data"):
                await cri.ours("SuspendPod", pods[1])
            await cri("RemoveContainer", container_id=made[1])
            await cri.ours("SuspendPod", pods[1])
            await cri.ours("ResumePod", pods[1])
            again = await _started(cri, pods[1], "again", mount)
            assert await _said(cri, again, "cat", "/data/log") == "0\n1"
            for pod in pods:
                await cri("RemovePodSandbox", pod_sandbox_id=pod)
