# SPDX-License-Identifier: Apache-2.0
"""A named snapshot of a real pod: later pods go on where that one was, also when it and its daemon have ended."""

import asyncio
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cri.pb import runtime_pb2 as pb
from cri.policy import FORKABLE, SNAPSHOT
from cri.snapshots.named import DIRECTORY
from stage1.rootfs import checkpoint as place
from tests.fakes.outer_net import OuterNet

from .conftest import Client, VmWorld
from .counter_rig import Kubelet, counted, counter_of, counting_world, run_counter, sandbox_of
from .test_named import listed, ours
from .test_pool_vms import output_of

pytestmark = [pytest.mark.vm, pytest.mark.timeout(600)]

NAMED = {"namespace": "default", "name": "warm"}


@pytest.fixture
def node(tmp_path: Path, guest_dir: Path) -> Iterator[tuple[VmWorld, OuterNet]]:
    with counting_world(tmp_path, guest_dir) as made:
        yield made


def kubelet_of(world: VmWorld, name: str) -> Kubelet:
    return Kubelet(world.root / "kubelet", f"uid-{name}")


def asked(cri: Client, kubelet: Kubelet, name: str, **annotations: str) -> pb.PodSandboxConfig:
    """A pod that is to be a copy of the snapshot."""
    return sandbox_of(cri, kubelet, name, annotations={SNAPSHOT: "warm", **annotations})


async def copied(cri: Client, kubelet: Kubelet, name: str) -> tuple[str, str]:
    """A copy and its container, which runs."""
    pod = str((await cri("RunPodSandbox", config=asked(cri, kubelet, name), deadline_s=120)).pod_sandbox_id)
    (waiting,) = cri.node.pods.get(pod).status.waiting
    assert waiting.limits == (), "what a file says of them is not believed"
    config = counter_of(cri, kubelet)
    container = str((await cri("CreateContainer", pod_sandbox_id=pod, config=config)).container_id)
    assert (await cri.status(container)).state == pb.CONTAINER_CREATED
    await cri("StartContainer", container_id=container)
    return pod, container


async def info(cri: Client, pod: str) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((await cri("PodSandboxStatus", pod_sandbox_id=pod, verbose=True)).info["info"])
    return result


async def test_pods_begin_as_copies_when_the_source_has_ended(node: tuple[VmWorld, OuterNet]) -> None:
    world, _ = node
    state = Path(world.config.state_dir)
    async with world.daemon() as cri:
        source, container = await run_counter(cri, kubelet_of(world, "web"), "web", annotations={FORKABLE: "true"})
        assert [await counted(cri, source) for _ in range(2)] == [1, 2]
        await output_of(cri, container, "dd if=/dev/urandom of=/large bs=64k count=40; sync")
        assert await counted(cri, source) == 3
        made = await ours(cri, "CreateSnapshot", pod_sandbox_id=source, options={"name": "warm"})
        assert json.loads(made["snapshot"])["blocker"] == "" and await counted(cri, source) == 4
        assert {oct(one.stat().st_mode & 0o7777) for one in (state / DIRECTORY).rglob("*")} == {"0o600", "0o700"}
        await cri("RemovePodSandbox", pod_sandbox_id=source)
    async with world.daemon() as cri:
        assert [(one["name"], one["blocker"]) for one in await listed(cri)] == [("warm", "")]
        assert (await cri("ListImages")).images[0].pinned
        await _is_refused(cri, world, state / DIRECTORY / "default/warm")
        kubelet = kubelet_of(world, "one")
        one, web = await copied(cri, kubelet, "one")
        assert [await counted(cri, one) for _ in range(2)] == [4, 5]
        assert "the snapshot default/warm" in (await info(cri, one))["copyOf"]
        seen = await output_of(cri, web, "hostname; cat /etc/hostname /map/key; ls -s /large")
        assert seen.split()[:3] == ["one", "one", "value"] and int(seen.split()[3]) > 2000
        two = await _removed_meanwhile(cri, world)
        assert [await counted(cri, pod) for pod in (two, one)] == [4, 6]
        code, text = await cri.refused("RunPodSandbox", config=asked(cri, kubelet, "late"))
        assert code == "NOT_FOUND" and "'warm'" in text
        await cri("StopContainer", container_id=web, timeout=30)
        assert kubelet.log.read_bytes() == b"stopped at 6"
        for pod in (one, two):
            await cri("RemovePodSandbox", pod_sandbox_id=pod)
        assert world.left_over() == [] and _left(state) == {".new": [], ".lent": [], "default": []}


def _left(state: Path) -> dict[str, list[str]]:
    return {one.name: os.listdir(one) for one in (state / DIRECTORY).iterdir()}


async def _is_refused(cri: Client, world: VmWorld, template: Path) -> None:
    kubelet = kubelet_of(world, "none")
    code, text = await cri.refused("RunPodSandbox", config=asked(cri, kubelet, "none", **{"clearpod.io/vcpus": "2"}))
    assert code == "FAILED_PRECONDITION" and "vCPUs" in text
    guest = template / place.GUEST
    status, data = guest.stat(), guest.read_bytes()
    guest.write_bytes(data[:-9] + bytes([data[-9] ^ 1]) + data[-8:])
    code, text = await cri.refused("RunPodSandbox", config=asked(cri, kubelet, "none"))
    assert code == "FAILED_PRECONDITION" and str(guest) in text and "damaged" in text
    guest.write_bytes(data)
    os.utime(guest, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert (await cri("ListPodSandbox")).items == []


async def _removed_meanwhile(cri: Client, world: VmWorld) -> str:
    """A copy that begins while its template is removed."""
    beginning = asyncio.ensure_future(copied(cri, kubelet_of(world, "two"), "two"))
    lent = Path(world.config.state_dir, DIRECTORY, ".lent")
    while not list(lent.glob(f"*/{place.MANIFEST}")):
        assert not beginning.done(), beginning
        await asyncio.sleep(0.002)
    await ours(cri, "RemoveSnapshot", options=NAMED)
    assert await listed(cri) == []
    return (await beginning)[0]
