# SPDX-License-Identifier: Apache-2.0
"""The node's network apart from pods: STATUS behind NetworkReady, garbage collection, and deferred DELs."""

import asyncio
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from cri.monitors.network import NodeNetwork
from stage1.net import record
from tests.fakes.cni import FakeCni
from tests.fakes.patience import PATIENCE

from .conftest import Client, World
from .test_network import network

CHAIN = [{"type": "first"}, {"type": "second"}]


@pytest.fixture
def cni(world: World) -> FakeCni:
    made = FakeCni(world.root / "cni")
    world.host = world.host._replace(network=made.settings)
    made.configure(CHAIN, "1.1.0")
    return made


async def until(is_so: Callable[[], object], limit_s: float = 10) -> None:
    async with asyncio.timeout(limit_s * PATIENCE):
        while not is_so():
            await asyncio.sleep(0.02)


async def ready(cri: Client, expected: str, limit_s: float = 15) -> tuple[bool, str, str]:
    """NetworkReady as soon as its sentence has `wanted`."""
    async with asyncio.timeout(limit_s * PATIENCE):
        while expected not in (result := await network(cri))[2]:
            await asyncio.sleep(0.05)
    return result


async def test_network_ready_is_the_result_of_status(world: World, cni: FakeCni) -> None:
    cni.trouble("second", "STATUS", 'echo \'{"code": 50, "msg": "no controller"}\'; exit 1')
    async with world.daemon() as cri:
        result = await ready(cri, "no controller")
        assert result[:2] == (False, "NetworkPluginNotReady")
        assert result[2].endswith("'second' of network 'fake' failed at STATUS: no controller (code 50)")
        cni.trouble("second", "STATUS", "")
        cni.configure(CHAIN, "1.1.0", more=1)  # another configuration: the old answer counts no more
        async with asyncio.timeout(10 * PATIENCE):
            while not (await network(cri))[0]:
                await asyncio.sleep(0.05)


async def test_a_plugin_that_hangs_does_not_delay_status(world: World, cni: FakeCni) -> None:
    cni.trouble("first", "STATUS", "sleep 30")
    async with world.daemon() as cri:
        await network(cri)
        begun = time.monotonic()
        for _ in range(5):
            is_ready, _, message = await network(cri)
            assert not is_ready and message.endswith("the plugins of network 'fake' have not answered STATUS yet")
        assert time.monotonic() - begun < 5 * PATIENCE, "the plugin takes 30 s"
        assert "did not finish STATUS within 5 s" in (await ready(cri, "did not finish"))[2]


async def test_the_answer_is_kept_for_a_while(world: World, cni: FakeCni) -> None:
    host = world.host
    kept = NodeNetwork(host, fresh_s=3600)
    kept.open()
    await until(lambda: kept.readiness() == (True, ""))
    cni.calls()
    for _ in range(20):
        assert kept.readiness() == (True, "")
    await asyncio.sleep(0.3)
    assert "STATUS first" not in cni.calls()
    kept.close()
    stale = NodeNetwork(host, fresh_s=0)
    stale.open()
    await until(lambda: stale.readiness() == (True, ""))
    cni.trouble("first", "STATUS", "exit 1")
    await until(lambda: stale.readiness()[0] is False)
    stale.close()
    stale._pool.shutdown()  # no plugin still works in the directory that goes now


async def test_the_daemon_collects_garbage_when_it_starts_and_after_a_failure(world: World, cni: FakeCni) -> None:
    stray = cni.root / "leases" / f"first-{'0' * 64}"
    stray.touch()
    async with world.daemon() as cri:
        pod = await cri.pod()
        await until(lambda: not stray.exists())
        assert (cni.root / "leases" / f"first-{pod}").exists()
        stray.touch()
        cni.trouble("second", "ADD", "exit 1")
        await cri.refused("RunPodSandbox", config=cri.sandbox("other"))
        await until(lambda: not stray.exists())
        cni.trouble("second", "ADD", "")
        await cri("RemovePodSandbox", pod_sandbox_id=pod)
    assert cni.left_over() == []


async def test_a_deferred_del_is_tried_later(world: World, cni: FakeCni, caplog: pytest.LogCaptureFixture) -> None:
    cni.trouble("first", "DEL", "exit 1")
    async with world.daemon() as cri:
        pod = await cri.pod()
        for _ in range(2):
            assert (await cri.refused("StopPodSandbox", pod_sandbox_id=pod))[0] == "UNKNOWN"
        await cri("StopPodSandbox", pod_sandbox_id=pod)
        assert "is retried later" in _warnings(caplog, "network.deferred")
        await cri("RemovePodSandbox", pod_sandbox_id=pod)
        assert world.left_over() == []
        assert list(record.every(cni.settings.cache_dir)) == [pod]
    node_network = NodeNetwork(world.host, round_s=0.05)
    node_network.open()
    await until(lambda: "could not be released" in _warnings(caplog, "network.cleanup"))
    await asyncio.sleep(0.3)
    assert len([one for one in caplog.records if one.getMessage() == "network.cleanup"]) == 1, "told once"
    cni.trouble("first", "DEL", "")
    await until(lambda: cni.left_over() == [])
    node_network.close()
    assert not os.path.exists(f"/run/netns/clearpod-{pod}")


def _warnings(caplog: pytest.LogCaptureFixture, event: str) -> str:
    return "\n".join(str(vars(one).get("error")) for one in caplog.records if one.getMessage() == event)


async def test_the_next_daemon_tries_a_deferred_del(world: World, cni: FakeCni) -> None:
    async with world.daemon() as cri:
        pod = await cri.pod()
        (cni.root / "bin" / "second").rename(cni.root / "aside")
        await cri("StopPodSandbox", pod_sandbox_id=pod)
        assert list(record.every(cni.settings.cache_dir)) == [pod], "a plugin that is gone keeps no pod"
    Path(cni.root / "aside").rename(cni.root / "bin" / "second")
    async with world.daemon() as cri:
        assert cni.left_over() == []
        await cri("RemovePodSandbox", pod_sandbox_id=pod)
