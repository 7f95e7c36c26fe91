# SPDX-License-Identifier: Apache-2.0
"""The network devices and addresses of a kernel out of an image whose pod is in several networks, in real VMs."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from cri import policy
from cri.pb import runtime_pb2 as pb
from tests.fakes import kernels
from tests.fakes.far_host import run_here
from tests.fakes.oci_layout import file
from tests.fakes.outer_net import OuterNet, conflist, outer_net
from tests.fakes.registry import Registry

from .conftest import World
from .test_own_kernels import Images, _log, _started, _until_logged, images, machine

__all__ = ["images", "machine"]
pytestmark = pytest.mark.vm
INIT = (
    kernels.INIT.partition(b"mkfifo")[0]
    + b"""mkdir -p /sys; mount -t sysfs sysfs /sys
for one in /sys/class/net/eth*; do echo "$one $(cat $one/address)"; done
echo "that is all"
exec sleep 1000000
"""
)


@pytest.fixture
def net(machine: World) -> Iterator[OuterNet]:
    """The network test, and a second one; pods may be in both."""
    with outer_net(machine.root / "outer") as made:
        second = json.dumps(conflist(machine.root / "outer"))
        for old, new in (("10.77.0", "10.79.0"), ("fd77", "fd79"), ("ct0", "ct1"), ('"test"', '"second"')):
            second = second.replace(old, new)
        made.configure(json.loads(second), "20.conflist")
        machine.host = machine.host._replace(network=made.settings)
        machine.config = machine.config.but(policy=policy.Policy(networks=("*",), annotations=policy.KNOWN))
        yield made


@pytest.mark.parametrize("kind", ["microvm", "q35"])
async def test_of_two_networks_the_first_is_eth0_and_its_address_the_kernels(
    machine: World, net: OuterNet, images: Images, guest_dir: Path, tmp_path: Path, *, kind: str
) -> None:
    (_, initrd) = kernels.plain_files(guest_dir, init=INIT)
    files = [file("kernel", (guest_dir / "bzImage").read_bytes()), initrd]
    labels = kernels.labelled(path="/kernel", initrd="/initrd", network="linux", machine=kind)
    with Registry(tmp_path / "registry") as registry:
        image = kernels.push(registry, tmp_path, "t/two:1", files=files, labels=labels)
        async with machine.daemon() as cri:
            await cri("PullImage", image=pb.ImageSpec(image=image))
            pod = await cri.pod(log_directory=f"{machine.root}/logs", annotations={policy.NETWORKS: "second"})
            c = await _started(cri, pod, image, "quiet")
            await _until_logged(cri, c, "that is all")
            network = cri.node.pods.get(pod).network
            assert network is not None
            lines = _log((await cri.status(c)).log_path)
            assert {f"/sys/class/net/{one.name} {one.mac}" for one in network.interfaces} <= set(lines), lines
            assert [one.name for one in network.interfaces] == ["eth0", "eth1"]
            await asyncio.to_thread(run_here, "busybox", "ping", "-c", "2", "-W", "20", network.ips[0])
            await cri("RemovePodSandbox", pod_sandbox_id=pod)
            assert machine.left_over() == []


async def test_a_pod_with_ipv6_alone_has_a_device_and_no_address_on_the_line(
    machine: World, net: OuterNet, images: Images
) -> None:
    six = conflist(machine.root / "outer")
    six["plugins"][0]["ipam"] |= {"ranges": [[{"subnet": "fd80::/64"}]], "routes": [{"dst": "::/0"}]}
    net.configure(six)
    async with machine.daemon() as cri:
        pod = await cri.pod(log_directory=f"{machine.root}/logs")
        c = await _started(cri, pod, images.microvm)
        await _until_logged(cri, c, "ready")
        line = _log((await cri.status(c)).log_path)[1]
        assert ("ip=" in line, "virtio_mmio" in line) == (False, True), line
        await cri("RemovePodSandbox", pod_sandbox_id=pod)
        assert machine.left_over() == []
