# SPDX-License-Identifier: Apache-2.0
"""From one version of clearpod to the next and back, with pods that run: what commit e7710e6 has made, images and
pods, is adopted; and the older daemon refuses what this one has touched, and touches nothing.

The older one is taken out of the repository's history, daemon and fake guests; a shallow clone skips this.
"""

import asyncio
import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cri import owner
from cri.pb import runtime_pb2 as pb
from stage1.errors import WrongState
from tests.cri.conftest import World
from tests.cri.test_recovery import _client, _numbers, _process
from tests.fakes import former as older
from tests.fakes.cni import FakeCni
from tests.fakes.oci_layout import Layer, Layout, directory, file, tar
from tests.fakes.patience import PATIENCE


@pytest.fixture(scope="module")
def former(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The older version's tree."""
    if not older.is_here():
        pytest.skip(older.LACKS_IT)
    return older.tree(tmp_path_factory.mktemp("former"))


@contextmanager
def daemon(world: World, former: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """The older one, as `_process` is this one."""
    argv = [sys.executable, "-m", "tests.cri.daemon", str(world.root), world.config.state_dir]
    with (world.root / "former.log").open("ab") as log:
        process = subprocess.Popen(argv, cwd=former, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def image(world: World, former: Path, tmp_path: Path) -> str:
    """An image that the older version has pulled into a store of its own; its id."""
    world.config = world.config.but(state_dir=f"{tmp_path}/state")
    world.host = world.host._replace(state_dir=f"{tmp_path}/state", network=FakeCni(world.root / "cni").settings)
    layout = Layout(tmp_path / "layout")
    passwd = file("etc/passwd", b"root:x:0:0::/:\n")
    tagged = layout.tag("1", layout.image([Layer(tar([directory("./"), directory("etc/"), passwd]))]))
    world.image = older.pull(former, world.config.state_dir, tagged)
    return world.image


COUNT = "i=0; while [ $i -lt 3000 ]; do i=$((i+1)); echo $i; sleep 0.001; done; while :; do sleep 1; done"


async def pods_of(world: World, former: Path) -> tuple[str, str, str]:
    """Two pods of the older daemon's, which is killed, and the container of the first, which writes numbers."""
    with daemon(world, former) as process:
        cri = await _client(world)
        pod = await cri.pod("web", log_directory=f"{world.root}/logs")
        writes = await cri.container(pod, "sh", "-c", COUNT, name="writes")
        await cri("StartContainer", container_id=writes)
        other = await cri.pod("other")
        process.send_signal(signal.SIGKILL)
        await cri.close()
    return pod, other, writes


async def test_pods_and_images_of_the_former_version_are_adopted(world: World, former: Path, image: str) -> None:
    pod, other, writes = await pods_of(world, former)
    with _process(world):
        cri = await _client(world)
        assert {one.id for one in (await cri("ListPodSandbox")).items} == {pod, other}
        for one in (pod, other):
            status = (await cri("PodSandboxStatus", pod_sandbox_id=one)).status
            assert (status.state, status.network.ip) == (pb.SANDBOX_READY, "10.9.0.5")
        assert (await cri("ExecSync", container_id=writes, cmd=["echo", "hi"])).stdout == b"hi\n"
        log = Path((await cri.status(writes)).log_path)
        async with asyncio.timeout(30 * PATIENCE):
            while not log.read_text().endswith(" 3000\n"):
                await asyncio.sleep(0.05)
        assert _numbers(str(log)) == [*range(1, 3001)]
        assert (await cri("ImageStatus", image=pb.ImageSpec(image=image))).image.id == image
        late = await cri.container(pod, "true", name="late")
        await cri("StartContainer", container_id=late)
        assert (await cri.ended(late)).exit_code == 0
        for one in (pod, other):
            await cri("RemovePodSandbox", pod_sandbox_id=one)
        await cri.close()
    assert world.left_over() == []
    assert sorted(os.listdir(world.root / "cni/leases")) == []


async def test_the_former_version_refuses_what_this_one_has_touched(world: World, former: Path, image: str) -> None:
    pod, other, writes = await pods_of(world, former)
    with _process(world):
        cri = await _client(world)
        await cri("RemovePodSandbox", pod_sandbox_id=other)
        await cri.close()
    before = state(world)
    with daemon(world, former) as process:
        assert process.wait(30 * PATIENCE) not in (0, None)
    assert "newer clearpod" in (world.root / "former.log").read_text()
    assert state(world) == before
    with _process(world):
        cri = await _client(world)
        assert (await cri("ExecSync", container_id=writes, cmd=["echo", "hi"])).stdout == b"hi\n"
        await cri("RemovePodSandbox", pod_sandbox_id=pod)
        await cri.close()
    assert world.left_over() == []


def state(world: World) -> dict[str, bytes]:
    """All files of the state and the run directory that do not change by themselves."""
    result = [*Path(world.config.state_dir).rglob("*"), *Path(world.config.run_dir).glob("pods/*/*")]
    kept = (path for path in result if path.is_file() and not path.name.endswith(("-shm", "-wal", ".log", ".lock")))
    return {str(path): content(path) for path in kept if path.stat().st_size < 1 << 20}


def content(path: Path) -> bytes:
    """Of a database what it says: who closes it last tidies up in it."""
    if path.suffix != ".db":
        return path.read_bytes()
    with contextlib.closing(sqlite3.connect(path)) as db:
        return "\n".join(db.iterdump()).encode()


@pytest.mark.parametrize("text", ["2\n", f"{owner.VERSION + 1}", "1000"])
async def test_a_run_directory_of_a_newer_version_is_refused_and_its_pods_live(world: World, text: str) -> None:
    async with world.daemon() as cri:
        pod = await cri.pod()
        c = await cri.container(pod, "sleep", "1000")
        await cri("StartContainer", container_id=c)
    run_dir = Path(world.config.run_dir)
    (run_dir / owner.FORMAT).write_text(text)
    for record in run_dir.glob("pods/*/state.json"):
        record.write_text(json.dumps({**json.loads(record.read_text()), "v": 2}))
    before = state(world)
    with pytest.raises(WrongState, match="newer clearpod"), owner.own(world.config):
        pass
    assert state(world) == before and (run_dir / owner.FORMAT).read_text() == text
    with _process(world) as process:
        assert process.wait(30 * PATIENCE) not in (0, None)
    assert state(world) == before
    assert all(not guest.join(0) for guest in world.vmm.guests.values())


@pytest.mark.parametrize("text", ["", "x", "\0" * 50, "-1"])
def test_a_damaged_version_of_the_run_directory_is_ignored(world: World, text: str) -> None:
    path = Path(world.config.run_dir, owner.FORMAT)
    for _ in range(2):
        with owner.own(world.config):
            assert path.read_text() == f"{owner.VERSION}\n"
        path.write_text(text)
