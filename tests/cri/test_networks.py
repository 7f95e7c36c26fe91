# SPDX-License-Identifier: Apache-2.0
"""Several networks per pod and the embedded one, over the CRI: what clients see, and real guests that use them."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from cri.policy import NETWORKS
from stage1.net.settings import Default
from tests.fakes.cni import FakeCni
from tests.fakes.far_host import run_here
from tests.fakes.outer_net import OuterNet

from .conftest import Client, Registered, VmWorld, World
from .test_network import _output, addresses, network, outer_world


@pytest.fixture
def cni(world: World) -> FakeCni:
    made = FakeCni(world.root / "cni")
    world.host = world.host._replace(network=made.settings)
    return made


@pytest.fixture
def outer(sample: Registered, guest_dir: Path) -> Iterator[tuple[VmWorld, OuterNet]]:
    with outer_world(sample, guest_dir) as made:
        yield made


async def test_a_network_that_is_not_there_is_refused_with_those_that_are(world: World, cni: FakeCni) -> None:
    async with world.daemon() as cri:
        config = cri.sandbox(annotations={NETWORKS: "storage"})
        code, sentence = await cri.refused("RunPodSandbox", config=config)
        assert code == "INVALID_ARGUMENT"
        assert sentence.endswith(f"the network 'storage', which is not in {cni.root}/net.d; there are: fake")
    assert cni.calls() == [] and cni.left_over() == [] and world.left_over() == []


async def test_status_reports_that_the_embedded_network_is_in_use(world: World, cni: FakeCni) -> None:
    (file,) = (cni.root / "net.d").iterdir()
    default = Default(("10.86.0.0/16",))
    world.host = world.host._replace(network=cni.settings._replace(default=default))
    async with world.daemon() as cri:
        assert await network(cri) == (True, "", "")
        text = file.read_text()
        file.unlink()
        is_ready, reason, message = await network(cri)
        assert (is_ready, reason) == (False, "NetworkPluginNotReady")
        assert "lacks the CNI plugin 'bridge' and 'host-local' and 'portmap'" in message
        assert message.endswith("apt install containernetworking-plugins")
        assert await addresses(cri, await cri.pod("alone")) == ("",)
        for kind in ("bridge", "host-local", "portmap"):
            (cni.root / "bin" / kind).symlink_to("first")
        is_ready, _, message = await network(cri)
        assert is_ready and message.startswith("the embedded network 'clearpod' is in use, since there is no CNI")
        file.write_text("{")
        assert (await network(cri))[0] is False, "a broken configuration is not replaced"
        file.write_text(text)
        assert await network(cri) == (True, "", "")


def _info(reply: object) -> dict[str, object]:
    result: dict[str, object] = json.loads(reply.info["info"])["network"]  # type: ignore[attr-defined]
    return result


@pytest.mark.vm
async def test_a_guest_has_a_device_for_each_network_and_talks_through_both(outer: tuple[VmWorld, OuterNet]) -> None:
    world, net = outer
    ipam = {"type": "host-local", "dataDir": f"{net.root}/leases", "ranges": [[{"subnet": "10.99.0.0/24"}]]}
    ipam["routes"] = [{"dst": "10.100.0.0/16", "gw": "10.99.0.1"}]
    storage = {"type": "bridge", "bridge": "br-storage", "isGateway": True, "mtu": 1300, "ipam": ipam}
    net.configure({"cniVersion": "0.4.0", "name": "storage", "plugins": [storage]}, "50-storage.conflist")
    annotations = {NETWORKS: "storage"}
    async with world.daemon() as cri:
        await cri("RemovePodSandbox", pod_sandbox_id=await cri.pod("first", annotations=annotations))
        before = net.state()
        pod = await cri.pod("web", annotations=annotations)
        reply = await cri("PodSandboxStatus", pod_sandbox_id=pod, verbose=True)
        seen = _info(reply)
        devices = {one["name"]: one for one in seen["interfaces"]}  # type: ignore[attr-defined]
        assert seen["networks"] == ["test", "storage"] and list(devices) == ["eth0", "eth1"]
        v4, v6, other = await addresses(cri, pod)
        assert v4.startswith("10.77.") and v6.startswith("fd77:") and other.startswith("10.99.")
        await _uses_both(cri, pod, devices)
        await cri("RemovePodSandbox", pod_sandbox_id=pod)
        assert net.state() == before
    assert world.left_over() == []


async def _uses_both(cri: Client, pod: str, devices: dict[str, dict[str, object]]) -> None:
    container = await cri.container(pod, "sleep", "600")
    await cri("StartContainer", container_id=container)
    output = await _output(cri, container, "ip", "addr")
    for name, one in devices.items():
        part = output.partition(f": {name}: ")[2].partition(": eth")[0]
        assert f"mtu {one['mtu']}" in part and str(one["mac"]) in part, (name, output)
        assert all(address in part for address in one["addresses"]), (name, output)  # type: ignore[attr-defined]
    routes = await _output(cri, container, "ip", "route")
    assert "10.100.0.0/16 via 10.99.0.1 dev eth1" in routes and "default via 10.77.0.1 dev eth0" in routes
    for gateway in ("10.77.0.1", "fd77::1", "10.99.0.1"):
        assert "1 packets received" in await _output(cri, container, "ping", "-c1", "-W5", gateway), gateway


@pytest.mark.vm
async def test_guests_on_a_macvlan_connect_to_each_other_and_to_other_hosts(outer: tuple[VmWorld, OuterNet]) -> None:
    """Such a device takes in only what is for its own address, so the guest must have just that one."""
    world, net = outer
    run_here("ip", "link", "add", "lan0", "type", "veth", "peer", "name", "lan1")
    for command in ("link set lan0 up", "link set lan1 up", "addr add 10.98.0.1/24 dev lan1"):
        run_here("ip", *command.split())
    ipam = {"type": "host-local", "dataDir": f"{net.root}/leases", "ranges": [[{"subnet": "10.98.0.0/24"}]]}
    plugin = {"type": "macvlan", "master": "lan0", "mode": "bridge", "ipam": ipam}
    net.configure({"cniVersion": "1.0.0", "name": "lan", "plugins": [plugin]})
    async with world.daemon() as cri:
        await cri("RemovePodSandbox", pod_sandbox_id=await cri.pod("first"))
        before = net.state()
        pods = [await cri.pod(name) for name in ("one", "two")]
        (one,) = await addresses(cri, pods[0])
        container = await cri.container(pods[1], "sleep", "600")
        await cri("StartContainer", container_id=container)
        for address in (one, "10.98.0.1"):
            assert "1 packets received" in await _output(cri, container, "ping", "-c1", "-W5", address), address
        for pod in pods:
            await cri("RemovePodSandbox", pod_sandbox_id=pod)
        assert net.state() == before
    assert world.left_over() == []


@pytest.mark.vm
async def test_a_guest_on_the_embedded_network_reaches_its_gateways(outer: tuple[VmWorld, OuterNet]) -> None:
    world, net = outer
    net.use_default()
    world.host = world.host._replace(network=net.settings)
    async with world.daemon() as cri:
        await cri("RemovePodSandbox", pod_sandbox_id=await cri.pod("first"))
        before = net.state()
        pod = await cri.pod("web")
        container = await cri.container(pod, "sleep", "600")
        await cri("StartContainer", container_id=container)
        for gateway in ("10.78.0.1", "fd78::1"):
            assert "1 packets received" in await _output(cri, container, "ping", "-c1", "-W5", gateway), gateway
        await cri("RemovePodSandbox", pod_sandbox_id=pod)
        assert net.state() == before
    assert not os.path.exists(f"/run/netns/clearpod-{pod}")
