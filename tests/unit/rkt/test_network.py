# SPDX-License-Identifier: Apache-2.0
"""A pod's network under rkt: --net modes, ports, what the metadata service needs, and that all of it goes away."""

import fcntl
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from stage1.errors import BadRequest, NetworkFailed, Unsupported, WrongState
from stage1.linux import namespace
from stage1.net import plugins, rkt, writeoff
from stage1.pod.model import Pod, Port
from stage1.rkt import network, ports
from stage1.rkt.arguments import RunOptions
from tests.fakes.cni import FakeCni
from tests.fakes.patience import PATIENCE

UUID = f"5f1c2a3b-0000-4000-8000-{os.getpid():08x}aaaa"
TREE = "deps-sha512-" + "0" * 64
OTHER = UUID.replace("aaaa", "bbbb")
POD = Pod(UUID, "web", hostname="web")


class World:
    """rkt's data directory with one pod, and a local configuration with fake plugins."""

    def __init__(self, place: Path) -> None:
        self.cni = FakeCni(place / "cni")
        self.data, self.local = place / "data", place / "local"
        plugins = self.data / "cas/tree" / TREE / "rootfs/usr/lib/rkt/plugins/net"
        plugins.parent.mkdir(parents=True)
        plugins.symlink_to(self.cni.root / "bin")
        (self.cni.root / "bin" / "portmap").symlink_to("second")
        (self.cni.root / "batch").write_text("link add DEVICE type veth peer name p-DEVICE\nlink set DEVICE up\n")
        (self.local / "net.d").mkdir(parents=True)
        self.dir = self.data / "pods/run" / UUID
        self.dir.mkdir(parents=True)
        (self.dir / "stage1TreeStoreID").write_text(TREE)
        self.configure("10", "web")

    def configure(self, file: str, name: str, **more: Any) -> None:
        document = {"name": name, "type": "first", **more}
        (self.local / "net.d" / f"{file}.conf").write_text(json.dumps(document))

    def attach(self, net: str, pod: Pod = POD) -> Any:
        return network.attach(str(self.dir), pod, options=RunOptions(UUID, net=net, local_config=str(self.local)))

    def move(self) -> str:
        """As rkt does before gc; the pod's directory then."""
        target = self.data / "pods/exited-garbage" / UUID
        target.parent.mkdir(exist_ok=True)
        self.dir.rename(target)
        return str(target)

    @property
    def leases(self) -> list[str]:
        return os.listdir(self.cni.root / "leases")

    def age_record(self) -> None:
        """Let it be long since the last DEL."""
        path = self.data / f"clearpod/networks/{UUID}.json"
        os.utime(path, (path.stat().st_mtime - 3600,) * 2)

    @property
    def records(self) -> list[str]:
        return os.listdir(self.data / "clearpod/networks")


@pytest.fixture
def world(tmp_path: Path) -> Any:
    world = World(tmp_path)
    yield world
    namespace.remove_net(f"/run/netns/clearpod-{UUID}")


def test_a_pod_gets_its_network_and_gc_takes_all_of_it_away(world: World) -> None:
    seen = world.attach("web")
    assert "eth0" in [one.name for one in seen.interfaces] and seen.ips == ("10.9.0.5", "fd09::5")
    (info,) = json.loads((world.dir / rkt.INFO).read_text())
    assert (info["netName"], info["ip"]) == ("web", "10.9.0.5")
    assert network.netns(UUID, seen) == f"/run/netns/clearpod-{UUID}" and namespace.is_net(network.netns(UUID, seen))
    moved = world.move()
    assert network.detach(moved) == ""
    assert (world.leases, world.records) == ([], []) and not os.path.exists(f"/run/netns/clearpod-{UUID}")
    assert network.detach(moved) == "" and network.collect_garbage(moved) == [], "both are idempotent"


def test_without_a_network_there_is_no_file_and_nothing_to_take_away(world: World) -> None:
    assert world.attach("none") is None and world.attach("web,none") is None
    assert not (world.dir / rkt.INFO).exists() and network.netns(UUID, None) == ""
    assert network.host_ip(str(world.dir)) == "" and network.detach(world.move()) == ""


@pytest.mark.parametrize(
    "net, pod, error, sentence",
    [
        ("host", POD, Unsupported, "--net=host is not offered"),
        ("host,web", POD, Unsupported, "--net=host is not offered"),
        ("none", POD._replace(ports=(Port(80, 8080),)), BadRequest, "--port needs a network"),
        ("other", POD, BadRequest, "'other' .*/local/net.d; .*: default, default-restricted, web"),
    ],
)
def test_what_can_not_be_is_refused_and_leaves_nothing(
    world: World, net: str, pod: Pod, error: type[Exception], sentence: str
) -> None:
    with pytest.raises(error, match=sentence):
        world.attach(net, pod)
    assert os.listdir(world.dir) == ["stage1TreeStoreID"] and not (world.data / "clearpod").exists()


def test_host_ports_are_mapped_by_one_network(world: World) -> None:
    world.attach("web", POD._replace(ports=(Port(80, 8080),)))
    given = json.loads((world.cni.root / "stdin-portmap-ADD").read_text())
    assert given["runtimeConfig"]["portMappings"] == [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]
    assert network.detach(str(world.dir)) == ""


@pytest.mark.parametrize(
    "masquerading, gateway",
    [((), "10.2.0.1"), (("a",), "10.1.0.1"), (("a", "b"), "10.1.0.1"), (("b",), "10.2.0.1")],
)
def test_the_metadata_service_is_at_the_first_network_that_masquerades_else_at_the_last(
    world: World, masquerading: tuple[str, ...], gateway: str
) -> None:
    for number, name in ((1, "a"), (2, "b")):
        world.configure(f"{number}", name, type=f"kind-{name}", ipMasq=name in masquerading)
        ips = json.dumps({"cniVersion": "0.4.0", "ips": [{"address": "10.0.0.2/8", "gateway": f"10.{number}.0.1"}]})
        plugin = world.cni.root / "bin" / f"kind-{name}"
        plugin.write_text(f"#!/bin/sh\n[ $CNI_COMMAND != ADD ] || echo '{ips}'\n")
        plugin.chmod(0o755)
    world.attach("b,a")
    assert network.host_ip(str(world.dir)) == gateway
    assert network.detach(str(world.dir)) == ""


def test_a_network_that_could_not_be_made_leaves_nothing(world: World) -> None:
    world.cni.trouble("first", "ADD", "echo no >&2; exit 1")
    with pytest.raises(NetworkFailed, match="no"):
        world.attach("web")
    assert (world.leases, world.records) == ([], []) and os.listdir(world.dir) == ["stage1TreeStoreID"]


def test_what_a_plugin_does_not_give_back_is_tried_again_when_another_pod_is_removed(world: World) -> None:
    world.attach("web")
    world.cni.trouble("first", "DEL", "exit 1")
    moved = world.move()
    assert f"network of pod {UUID} " in network.detach(moved)
    assert world.leases and world.records, "the pod's directory goes, its record stays"
    world.cni.calls()
    assert network.collect_garbage(moved) == [] and world.cni.calls() == [], "it was tried just now"
    world.age_record()
    (sentence,) = network.collect_garbage(moved)
    assert f"network of pod {UUID} " in sentence
    world.cni.trouble("first", "DEL", "")
    world.age_record()
    assert network.collect_garbage(str(world.data / "pods/exited-garbage/other")) == []
    assert (world.leases, world.records) == ([], [])


@pytest.mark.parametrize("is_freed", [True, False])
def test_what_is_never_given_back_is_written_off_in_the_end_and_its_lease_freed(world: World, is_freed: bool) -> None:
    leases = world.cni.root / "ipam"
    (leases / "web").mkdir(parents=True)
    (leases / "web/10.9.0.5").write_text("")
    plugin = world.cni.root / "bin/own-ipam"
    plugin.write_text(
        f'#!/bin/sh\ntest $CNI_COMMAND = DEL -a -z "$CNI_NETNS" && {"rm" if is_freed else "false"} {leases}/*/*\n'
    )
    plugin.chmod(0o755)
    world.configure("10", "web", ipam={"type": "own-ipam", "dataDir": str(leases)})
    world.attach("web")
    world.cni.trouble("first", "DEL", "exit 1")
    moved = world.move()
    assert network.detach(moved)
    output: list[str] = []
    while not output or "retried later" in output[-1]:
        world.age_record()
        output += network.collect_garbage(moved)
    assert len(output) == writeoff.TRIES - 1 and network.collect_garbage(moved) == []
    kept = world.data / f"clearpod/networks/{UUID}.written-off"
    assert str(kept) in output[-1] and kept.exists() and world.records == [kept.name]
    assert os.path.exists(leases / "web/10.9.0.5") != is_freed
    assert ("10.9.0.5" in output[-1] and f"{leases}/web/10.9.0.5" in output[-1]) != is_freed
    assert not namespace.is_net(f"/run/netns/clearpod-{UUID}")


def test_plugins_that_hang_cost_a_gc_a_bounded_time_and_are_written_off_in_the_end(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rkt, "DEL_S", 0.3)
    monkeypatch.setattr(plugins, "LEAST_S", 0.2)
    world.configure("10", "web", ipam={"type": "first"})
    world.attach("web", POD._replace(ports=(Port(80, 8080),)))
    for name in ("first", "second"):
        world.cni.trouble(name, "DEL", "sleep 1000")
    moved, began = world.move(), time.monotonic()
    assert "did not finish DEL" in network.detach(moved)
    output: list[str] = []
    while not output or "retried later" in output[-1]:
        world.age_record()
        output += network.collect_garbage(moved)
    assert len(output) == writeoff.TRIES - 1 and f"{UUID}.written-off" in output[-1]
    assert time.monotonic() - began < 15 * PATIENCE, "and not 30 s for each plugin each time"
    assert network.collect_garbage(moved) == [] and not namespace.is_net(f"/run/netns/clearpod-{UUID}")


def test_the_next_gc_goes_on_with_what_had_to_wait_for_a_plugin_that_hangs(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.attach("web")
    place = world.data / "clearpod/networks"
    other = place / f"{OTHER}.json"
    other.write_text((place / f"{UUID}.json").read_text().replace(UUID, OTHER))
    moved = world.move()
    for path in (place / f"{UUID}.json", other):
        document = json.loads(path.read_text())
        path.write_text(json.dumps({**document, "is_owed": True}))
    os.utime(other, (1, 1))
    monkeypatch.setattr(rkt, "DEL_S", 0.2)
    monkeypatch.setattr(plugins, "LEAST_S", 0.1)
    world.cni.trouble("first", "DEL", "sleep 1000")
    (sentence,) = network.collect_garbage(moved)
    assert f"network of pod {OTHER} " in sentence, "which was tried longest ago"
    (sentence,) = network.collect_garbage(moved)
    assert f"network of pod {UUID} " in sentence
    world.cni.trouble("first", "DEL", "")
    for path in (place / f"{UUID}.json", other):
        os.utime(path, (1, 1))
    monkeypatch.setattr(rkt, "DEL_S", 30)
    assert network.collect_garbage(moved) == [] and world.records == []


def test_a_record_that_is_damaged_is_reported_once(world: World) -> None:
    world.attach("web")
    moved = world.move()
    for path in (world.data / "clearpod/networks").iterdir():
        path.write_text("{")
    os.rename(moved, world.data / "gone")
    (sentence,) = network.collect_garbage(moved)
    assert f"{UUID}.written-off" in sentence and network.collect_garbage(moved) == []


@pytest.mark.parametrize(
    "port, is_taken",
    [
        (Port(80, 8080), True),
        (Port(81, 8080, host_ip="192.0.2.1"), True),
        (Port(80, 8080, protocol="udp"), False),
        (Port(8080, 8081), False),
        (Port(80, 0), False),
    ],
)
def test_a_port_of_a_pod_that_runs_is_refused_with_the_pods_name(world: World, port: Port, *, is_taken: bool) -> None:
    world.attach("web", POD._replace(ports=(Port(80, 8080),)))
    other = world.data / "pods/run" / OTHER
    other.mkdir()
    (other / "stage1TreeStoreID").write_text(TREE)
    options = RunOptions(OTHER, net="web", local_config=str(world.local))
    held = os.open(world.dir, os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)
    pod = Pod(OTHER, "other", ports=(port,))
    try:
        if is_taken:
            with pytest.raises(WrongState, match=f"8080/tcp is .* {UUID}"):
                network.attach(str(other), pod, options=options)
            assert world.records and f"{OTHER}.json" not in world.records
        else:
            assert network.attach(str(other), pod, options=options)
    finally:
        os.close(held)
    assert network.attach(str(other), pod, options=options) if is_taken else True, "its owner has ended"
    assert (f"{UUID}.json" in world.records) != is_taken
    assert network.detach(str(other)) == network.detach(world.move()) == ""
    assert (world.leases, world.records) == ([], [])


def test_ports_at_different_addresses_are_different(world: World) -> None:
    here, there, anywhere = (("tcp", 80, ip) for ip in ("192.0.2.1", "192.0.2.2", "0.0.0.0"))
    assert not ports._meet(here, there) and ports._meet(here, here)
    assert ports._meet(here, anywhere) and ports._meet(anywhere, there)


def test_a_pod_whose_directory_is_gone_is_removed_with_another_and_a_living_one_is_not(world: World) -> None:
    world.attach("web")
    assert network.collect_garbage(str(world.dir)) == [] and world.leases
    world.dir.rename(world.data / "gone")
    assert network.collect_garbage(str(world.dir)) == []
    assert (world.leases, world.records) == ([], [])
