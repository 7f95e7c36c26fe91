# SPDX-License-Identifier: Apache-2.0
"""A daemon that is killed with a warm pool, at any step: the next one cleans up all of it, and an orderly end drains
it.

Daemon and guests are processes of their own.
"""

import asyncio
import os
import signal
import subprocess
from pathlib import Path

import pytest
from grpc import aio

from stage1.net import record
from stage1.net.settings import netns_path
from tests.fakes.cni import FakeCni
from tests.fakes.host_state import HostState
from tests.fakes.patience import PATIENCE

from . import test_recovery as recovery
from .conftest import Client, World
from .test_pool import cni

__all__ = ["cni"]

SIZE = 2
STRIDE = 6
LEAST_DEATHS = {"filling": 6, "handing over": 3}


class Machine:
    """What the daemons of `world` have on this machine."""

    def __init__(self, world: World, cni: FakeCni) -> None:
        self.pods, self.cni = Path(f"{world.config.run_dir}/pods"), cni
        self.host_state = HostState(world.root)
        self.known: set[str] = set()

    def remember(self) -> int:
        """Know the pods that there are, for `left`; how many."""
        here = self.directories()
        self.known |= {*here, *record.every(self.cni.settings.cache_dir)}
        return len(here)

    def directories(self) -> list[str]:
        """Those of pods; a daemon that died early has not even made the place for them."""
        return os.listdir(self.pods) if self.pods.exists() else []

    def left(self) -> list[str]:
        """What is left of any pod."""
        namespaces = [path for path in map(netns_path, self.known) if os.path.exists(path)]
        result = [*self.directories(), *namespaces, *record.every(self.cni.settings.cache_dir)]
        return [*result, *self.cni.left_over(), *self.host_state.processes().values()]


async def _lives_until_warm(world: World, process: "subprocess.Popen[bytes]") -> bool:
    while process.poll() is None:
        cri = Client(world.config.socket_path, None, world.image)
        try:
            if (await cri.pool())["waiting"] == SIZE:
                return True
        except aio.AioRpcError:
            pass  # it does not listen yet, or has just died
        finally:
            await cri.close()
        await asyncio.sleep(0.05)
    return False


async def _lives_with_a_pod(world: World, process: "subprocess.Popen[bytes]") -> bool:
    cri = await recovery._client(world)
    try:
        await cri.pod()
    except aio.AioRpcError:
        return process.wait(5 * PATIENCE) != -signal.SIGKILL
    finally:
        await cri.close()
    return True


@pytest.mark.parametrize("is_reserved", [False, True])
@pytest.mark.parametrize("when", ["filling", "handing over"])
async def test_a_daemon_that_dies_between_any_two_steps_leaves_nothing_to_the_next(
    world: World, cni: FakeCni, when: str, monkeypatch: pytest.MonkeyPatch, *, is_reserved: bool
) -> None:
    machine, begins, deaths = Machine(world, cni), world.root / "die", 0
    if is_reserved:
        cni.make_first_reservable()
    while True:
        monkeypatch.setenv("WARM", str(SIZE))
        monkeypatch.setenv("DIE_AT", str(STRIDE * deaths + 1))
        if when == "filling":
            begins.touch()
        with recovery._process(world) as process:
            is_dead = not await _lives_until_warm(world, process)
            begins.touch()
            if when == "handing over":
                is_dead = not await _lives_with_a_pod(world, process)
            machine.remember()
        begins.unlink()
        monkeypatch.delenv("DIE_AT")
        monkeypatch.setenv("WARM", "0")
        with recovery._process(world) as process:
            cri = await recovery._client(world)
            for one in (await cri("ListPodSandbox")).items:
                await cri("RemovePodSandbox", pod_sandbox_id=one.id)
            await cri.close()
            process.send_signal(signal.SIGTERM)
            assert process.wait(20 * PATIENCE) == 0
        assert machine.left() == [], (when, deaths)
        if not is_dead:
            break
        deaths += 1
    assert deaths >= LEAST_DEATHS[when], f"only {deaths} deaths"


async def test_a_pool_is_replaced_after_a_kill_and_pods_that_came_out_of_it_live_on(
    world: World, cni: FakeCni, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WARM", str(SIZE))
    machine = Machine(world, cni)
    with recovery._process(world):
        cri = await recovery._client(world)
        await cri.warmed(SIZE)
        pod = await cri.pod()
        assert (await cri.warmed(SIZE))["booted"] == 3 and machine.remember() == 3
        await cri.close()
    with recovery._process(world) as process:
        cri = await recovery._client(world)
        counts = await cri.warmed(SIZE)
        assert counts["booted"] == 2 and machine.remember() == 3
        assert [one.id for one in (await cri("ListPodSandbox")).items] == [pod]
        container = await cri.container(pod, "true")
        await cri("StartContainer", container_id=container)
        assert (await cri.ended(container)).exit_code == 0
        process.send_signal(signal.SIGTERM)
        assert process.wait(20 * PATIENCE) == 0
        await cri.close()
        assert os.listdir(machine.pods) == [pod], "an orderly end drains the pool, and no pod"
    monkeypatch.setenv("WARM", "0")
    with recovery._process(world):
        cri = await recovery._client(world)
        await cri("RemovePodSandbox", pod_sandbox_id=pod)
        await cri.close()
        machine.host_state.root = world.root / "run"  # the daemon itself has the root on its command line
        assert machine.left() == []
