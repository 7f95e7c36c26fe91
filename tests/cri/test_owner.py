# SPDX-License-Identifier: Apache-2.0
"""Two owners on one machine: a state directory has one daemon, and no garbage collection touches what may belong
to a living pod of anybody: another daemon's, `clearpod run`'s, rkt's.
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from cri.owner import own
from stage1 import engine, garbage
from stage1.errors import AlreadyExists
from stage1.net import attach, record, status_gc
from stage1.net.settings import netns_path
from stage1.pod.model import Pod
from tests.fakes.cni import FakeCni

from .conftest import World

REPO = Path(__file__).parents[2]
CHAIN = [{"type": "first"}, {"type": "second"}]


@pytest.fixture
def cni(world: World) -> FakeCni:
    made = FakeCni(world.root / "cni")
    world.host = world.host._replace(network=made.settings)
    return made


def elsewhere(world: World) -> engine.Host:
    """Another daemon's host: the same state directory and records, another run directory."""
    return world.host._replace(run_dir=f"{world.root}/other")


@pytest.mark.parametrize(
    "same, named",
    [(("run_dir", "state_dir"), "run_dir"), (("run_dir",), "run_dir"), (("state_dir",), "state_dir"), ((), "")],
)
def test_a_directory_belongs_to_one_daemon(world: World, tmp_path: Path, same: tuple[str, ...], named: str) -> None:
    first = world.config.but(state_dir=f"{tmp_path}/state")
    others = {"run_dir": f"{tmp_path}/run2", "state_dir": f"{tmp_path}/state2"}
    second = first.but(**{key: path for key, path in others.items() if key not in same})
    with own(first):
        if named:
            with pytest.raises(AlreadyExists, match=named), own(second):
                pass
        else:
            with own(second):
                pass
    with own(second):
        pass


def test_one_directory_for_both_is_one_lock(world: World, tmp_path: Path) -> None:
    with own(world.config.but(run_dir=str(tmp_path), state_dir=f"{tmp_path}/")):
        pass


def test_the_command_reports_who_holds_the_state_directory(world: World, tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text(f'run_dir = "{world.root}/2"\nstate_dir = "{tmp_path}/state"\n')
    argv = [sys.executable, "-m", "cri", "serve", "--config", str(config)]
    with own(world.config.but(state_dir=f"{tmp_path}/state")):
        ended = subprocess.run(argv, capture_output=True, text=True, timeout=60, cwd=REPO, check=False)
    assert ended.returncode != 0 and f"{tmp_path}/state" in ended.stderr and "state_dir" in ended.stderr


async def test_the_network_of_another_daemons_pod_is_not_removed(world: World, cni: FakeCni) -> None:
    async with world.daemon() as cri:
        pod = await cri.pod()
        cni.calls()
        assert garbage.networks(elsewhere(world)) == [] and cni.calls() == []
        assert os.path.exists(netns_path(pod)) and list(record.every(cni.settings.cache_dir)) == [pod]
        await cri("RemovePodSandbox", pod_sandbox_id=pod)
    assert cni.left_over() == []


@pytest.mark.parametrize("spoil", [lambda path: None, lambda path: path.write_text("{")], ids=["whole", "damaged"])
def test_a_network_with_a_process_in_it_is_not_removed(
    world: World, cni: FakeCni, spoil: Callable[[Path], object]
) -> None:
    """Its directory is gone, as after /run was cleared, and its VM still runs."""
    pod_id = os.urandom(32).hex()
    directory = world.root / pod_id
    directory.mkdir()
    attach.attach(Pod(pod_id, "web"), str(directory), settings=cni.settings)
    path = Path(record.linked(str(directory)))
    text = path.read_text()
    spoil(path)
    (directory / record.LINK).unlink()
    directory.rmdir()
    cni.calls()
    with subprocess.Popen(["ip", "netns", "exec", f"clearpod-{pod_id}", "cat"], stdin=subprocess.PIPE) as lives:
        while os.stat(f"/proc/{lives.pid}/ns/net").st_ino != os.stat(netns_path(pod_id)).st_ino:
            time.sleep(0.01)
        assert garbage.networks(world.host) == [] and cni.calls() == []
        assert os.path.exists(netns_path(pod_id))
    path.write_text(text)
    assert garbage.networks(world.host) == [] and cni.left_over() == [] and not os.path.exists(netns_path(pod_id))


async def test_networks_of_pods_with_records_elsewhere_are_no_garbage(world: World, cni: FakeCni) -> None:
    """As rkt's, and those of a daemon with another state directory."""
    cni.configure(CHAIN, "1.1.0")
    async with world.daemon() as cri:
        pod = await cri.pod()
        assert status_gc.collect_garbage(cni.settings._replace(cache_dir=f"{world.root}/other")) == ()
        valid = cni.given("first", "GC")["cni.dev/valid-attachments"]
        assert {"containerID": pod, "ifname": "eth0"} in valid
        assert (cni.root / "leases" / f"first-{pod}").exists()
        await cri("RemovePodSandbox", pod_sandbox_id=pod)
    assert cni.left_over() == []


async def test_a_disk_of_another_daemons_pod_is_not_removed_though_the_clock_was_set(
    world: World, cni: FakeCni, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world.daemon() as cri:
        pod = await cri.pod()
        disk = Path(world.config.state_dir, "scratch", f"{pod}.img")
        assert disk.exists()
        monkeypatch.setattr(time, "time", lambda: time.clock_gettime(time.CLOCK_REALTIME) + 1e6)
        assert garbage.disks(elsewhere(world), run_dirs=(f"{world.root}/other",)) == [] and disk.exists()
        monkeypatch.undo()
        await cri("RemovePodSandbox", pod_sandbox_id=pod)
        assert not disk.exists()


def test_orphans_are_still_removed(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = tmp_path / "scratch" / f"{'0' * 64}.img"
    gone.parent.mkdir()
    gone.touch()
    monkeypatch.setattr(time, "time", lambda: time.clock_gettime(time.CLOCK_REALTIME) + 1e6)
    assert garbage.disks(world.host._replace(state_dir=str(tmp_path)), run_dirs=(world.host.run_dir,)) == []
    assert not gone.exists()
