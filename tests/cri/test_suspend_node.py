# SPDX-License-Identifier: Apache-2.0
"""A pod as the kubelet makes one, suspended and resumed: with a network, its volumes, and a server that counts."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from cri.pb import runtime_pb2 as pb
from cri.policy import SUSPEND
from tests.fakes.outer_net import OuterNet

from .conftest import VmWorld
from .counter_rig import Kubelet, counted, counting_world, page, run_counter
from .test_pool_vms import output_of

pytestmark = [pytest.mark.vm, pytest.mark.timeout(600)]


@pytest.fixture
def node(tmp_path: Path, guest_dir: Path) -> Iterator[tuple[VmWorld, OuterNet]]:
    with counting_world(tmp_path, guest_dir) as made:
        yield made


async def test_its_server_continues_counting_and_its_last_output_gets_to_the_kubelet(
    node: tuple[VmWorld, OuterNet],
) -> None:
    world, _ = node
    kubelet = Kubelet(world.root / "kubelet", "uid-web")
    async with world.daemon() as cri:
        ports = [pb.PortMapping(container_port=80, host_port=8080)]
        pod, container = await run_counter(
            cri, kubelet, "web-0", annotations={SUSPEND: "on-demand"}, port_mappings=ports
        )
        assert [await counted(cri, pod), await counted(cri, pod)] == [1, 2]
        seen = await output_of(cri, container, "cat /map/key /etc/hosts; cat /proc/mounts")
        assert "value" in seen and "of-the-kubelet" in seen and " 9p " not in seen
        await cri.ours("SuspendPod", pod)
        assert cri.node.pods.get(pod).is_suspended
        assert "web-0" in await output_of(cri, container, "hostname")
        assert await counted(cri, pod) == 3
        await cri.ours("SuspendPod", pod)
        assert int(await asyncio.to_thread(page, "http://10.77.0.1:8080/")) == 4, "who connects to the host port waits"
        await cri.ours("SuspendPod", pod)
    async with world.daemon() as cri:
        assert cri.node.pods.get(pod).is_suspended
        assert await counted(cri, pod) == 5, "also with the daemon that came meanwhile"
        assert kubelet.log.read_bytes() == b""
        await cri("StopContainer", container_id=container, timeout=30)
        status = await cri.status(container)
        assert (status.state, status.exit_code) == (pb.CONTAINER_EXITED, 3)
        assert kubelet.log.read_bytes() == b"stopped at 5"
        await cri("RemovePodSandbox", pod_sandbox_id=pod)
        assert world.left_over() == []
