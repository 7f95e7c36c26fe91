# SPDX-License-Identifier: Apache-2.0
"""The real daemon, killed while it writes a checkpoint and while it restores one: the pod runs on, nothing is left."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from grpc import aio

from cri.pb import runtime_pb2 as pb
from cri.pb import runtime_pb2_grpc as rpc
from cri.policy import SUSPEND
from stage1.rootfs import checkpoint as place
from tests.fakes import places
from tests.fakes.outer_net import BIN_DIR
from tests.fakes.patience import PATIENCE
from tests.soak.node import Node

pytestmark = [pytest.mark.vm, pytest.mark.timeout(600)]

COUNTER = "i=0; while true; do i=$((i+1)); echo $i >/new; mv /new /at; sleep 0.05; done"
COUNT = ["sh", "-c", "until [ -e /at ]; do sleep 0.05; done; cat /at"]


@pytest.fixture
def node(guest_dir: Path) -> Any:
    if not os.path.exists(f"{BIN_DIR}/bridge"):
        pytest.skip(f"needs {BIN_DIR}: apt install containernetworking-plugins iptables")
    with places.short_directory() as root, Node(Path(root), guest_dir) as made:
        yield made


@asynccontextmanager
async def client(node: Node) -> AsyncIterator[rpc.RuntimeServiceStub]:
    """Of the daemon that has just been started, once it serves."""
    async with aio.insecure_channel(f"unix:{node.socket}") as channel:
        stub = rpc.RuntimeServiceStub(channel)
        async with asyncio.timeout(60 * PATIENCE):
            while True:
                try:
                    await stub.ListPodSandbox(pb.ListPodSandboxRequest(), wait_for_ready=True)
                    break
                except aio.AioRpcError:  # it still adopts pods
                    await asyncio.sleep(0.05)
        yield stub


def _sandbox(name: str) -> pb.PodSandboxConfig:
    names = pb.PodSandboxMetadata(name=name, namespace="default", uid=f"uid-{name}")
    return pb.PodSandboxConfig(metadata=names, hostname=name, annotations={SUSPEND: "manual"})


def _container(image: str) -> pb.ContainerConfig:
    return pb.ContainerConfig(
        metadata=pb.ContainerMetadata(name="c"), image=pb.ImageSpec(image=image), command=["sh", "-c", COUNTER]
    )


async def _count(cri: rpc.RuntimeServiceStub, container: str) -> int:
    asked = pb.ExecSyncRequest(container_id=container, cmd=COUNT, timeout=60)
    return int((await cri.ExecSync(asked)).stdout)


async def _killed(node: Node, call: Any, when: Callable[[], bool]) -> None:
    """The daemon dies, by SIGKILL, once `when` holds while it carries out the call."""
    running = asyncio.ensure_future(call)
    while not when():
        assert not running.done(), running
        await asyncio.sleep(0.002)
    await asyncio.to_thread(node.stop, signal.SIGKILL)
    with pytest.raises(aio.AioRpcError):
        await running
    node.start()


def _begun(pods: Path, pod: str, file: str) -> Callable[[], bool]:
    """Whether another pod has come so far."""
    return lambda: any(os.path.lexists(one / file) for one in pods.iterdir() if one.name != pod)


async def test_a_kill_in_the_middle_leaves_the_pod_and_nothing_else(node: Node, tmp_path: Path) -> None:
    output = tmp_path / "checkpoint"
    output.mkdir(0o700)
    node.start()
    async with client(node) as cri:
        pod = (await cri.RunPodSandbox(pb.RunPodSandboxRequest(config=_sandbox("web")))).pod_sandbox_id
        config = _container(node.image)
        asked = pb.CreateContainerRequest(pod_sandbox_id=pod, config=config)
        container = (await cri.CreateContainer(asked)).container_id
        await cri.StartContainer(pb.StartContainerRequest(container_id=container))
        counts = [await _count(cri, container)]
    saving = pb.CheckpointPodRequest(pod_sandbox_id=pod, output_path=str(output), container_ids=[container])
    for name in (place.GUEST, place.DISK):
        async with client(node) as cri:
            await _killed(node, cri.CheckpointPod(saving), (output / name).exists)
        async with client(node) as cri:
            counts.append(await _count(cri, container))
            assert list(output.iterdir()) == []
    async with client(node) as cri:
        await cri.CheckpointPod(saving)
        restoring = pb.RestorePodRequest(
            checkpoint_path=str(output), config=_sandbox("other"), container_configs=[config]
        )
        pods = Path(node.run_dir, "pods")
        for file in ("scratch.img", "vm.json"):
            async with client(node) as cri:
                await _killed(node, cri.RestorePod(restoring), _begun(pods, pod, file))
            async with client(node) as cri:
                listed = (await cri.ListPodSandbox(pb.ListPodSandboxRequest())).items
                assert [one.id for one in listed] == [pod]
                counts.append(await _count(cri, container))
    async with client(node) as cri:
        made = await cri.RestorePod(restoring)
        other = made.restored_containers[0].container_id
        await cri.StartContainer(pb.StartContainerRequest(container_id=other))
        assert await _count(cri, other) >= counts[0]
        assert counts == sorted(counts) and await _count(cri, container) >= counts[-1]
        for one in (pod, made.pod_sandbox_id):
            await cri.RemovePodSandbox(pb.RemovePodSandboxRequest(pod_sandbox_id=one))
    node.stop(signal.SIGTERM)
    assert node.left() == []
