# SPDX-License-Identifier: Apache-2.0
"""Packets passed on by the host's kernel (/dev/vhost-net), with each hypervisor that has hardware virtualisation."""

import os
from pathlib import Path

import pytest

from cri.pods.pod import LivePod
from stage1.linux.host import host_facts
from stage1.vm.choose import choose, kvmtool_lacks
from tests.fakes import net_counters
from tests.fakes.outer_net import OuterNet

from .conftest import VmWorld
from .net_rig import PORT, build_probe, on_host, serve
from .test_network import outer

__all__ = ["outer"]

pytestmark = [pytest.mark.vm, pytest.mark.kvmtool, pytest.mark.timeout(600)]

FACTS = host_facts()
VSOCK_PORT = 1024


def opens(pid: int) -> list[str]:
    """The devices that a process has open."""
    links = Path(f"/proc/{pid}/fd").iterdir()
    return [path for path in map(os.readlink, links) if path.startswith("/dev/")]


@pytest.mark.parametrize("driver", ["kvmtool", "qemu"])
async def test_a_pod_moves_data_through_vhost_net(
    outer: tuple[VmWorld, OuterNet], tmp_path: Path, driver: str
) -> None:
    if lacks := kvmtool_lacks(FACTS):
        pytest.skip("; ".join(lacks))
    if FACTS.vhost_net_error:
        pytest.skip(f"/dev/vhost-net: {FACTS.vhost_net_error} (modprobe vhost_net)")
    world, _ = outer
    world.host = world.host._replace(choice=choose(driver, FACTS), vsock_port=VSOCK_PORT)
    (tmp_path / "tools").mkdir()
    probe = build_probe(tmp_path / "tools")
    async with world.daemon() as cri:
        pod = await serve(cri, "web", probe=probe)
        live: LivePod = cri.node.pods.get(pod.pod)
        assert live.vm is not None and "/dev/vhost-net" in opens(live.vm.pid)
        for ip in pod.ips:
            for command in (("get", "8"), ("put", "8"), ("udp", "8192", "5")):
                await on_host(probe, command[0], ip, PORT, *command[1:])
        assert net_counters.wrong_checksums(await pod.counters()) == {}
        await cri("RemovePodSandbox", pod_sandbox_id=pod.pod)
    assert world.left_over() == []
