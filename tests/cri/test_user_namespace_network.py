# SPDX-License-Identifier: Apache-2.0
"""The network of a pod with a user namespace, compared with that of one without: two real VMs on a real bridge."""

import asyncio
import urllib.request

import pytest

from cri.pb import runtime_pb2 as pb
from tests.fakes.outer_net import OuterNet

from .conftest import VmWorld
from .net_rig import two_pods
from .test_network import outer
from .test_network_data import probe
from .test_user_namespaces import FIRST, LENGTH, POD

__all__ = ["outer", "probe"]

pytestmark = pytest.mark.vm


def page(host: str) -> str:
    with urllib.request.urlopen(f"http://{host}/f", timeout=60) as reply:
        return str(reply.read().decode()).strip()


async def test_a_pod_with_a_user_namespace_has_the_same_network(outer: tuple[VmWorld, OuterNet], probe: str) -> None:
    world, net = outer
    context = pb.LinuxSandboxSecurityContext(namespace_options=pb.NamespaceOption(userns_options=POD))
    linux = pb.LinuxPodSandboxConfig(security_context=context)
    mapping = pb.PortMapping(protocol=pb.TCP, container_port=80, host_port=8080)
    async with two_pods(world, net, probe=probe, linux=linux, port_mappings=[mapping]) as (one, two):
        assert (await one.run("cat", "/proc/self/uid_map")).split() == ["0", str(FIRST), str(LENGTH)]
        assert (await two.run("cat", "/proc/self/uid_map")).split() == ["0", "0", "4294967295"]
        v4, v6 = one.ips
        for host in (v4, f"[{v6}]", "10.77.0.1:8080"):
            assert await asyncio.to_thread(page, host) == "one"
            assert (await two.run("wget", "-qO-", f"http://{host}/f")).strip() == "one"
        for address in (*two.ips, "10.77.0.1"):
            assert "1 packets received" in await one.run("ping", "-c1", "-W5", address)
        stats = (await one.cri("PodSandboxStats", pod_sandbox_id=one.pod)).stats.linux.network
        assert stats.default_interface.name == "eth0"
        assert stats.default_interface.rx_bytes.value > 0
        output = (await one.cri("PodSandboxStatus", pod_sandbox_id=one.pod)).status.linux.namespaces.options
        assert output.userns_options == POD
