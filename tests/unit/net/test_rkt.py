# SPDX-License-Identifier: Apache-2.0
"""rkt's --net, its configurations and net-info.json."""

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from stage1.errors import BadRequest, NetworkFailed
from stage1.linux import namespace, process
from stage1.net import attach, record, rkt
from stage1.net.rkt import HOST, NETWORKS, NONE, NetOption
from stage1.net.settings import netns_path
from stage1.pod.model import Pod, Port
from tests.fakes.cni import FakeCni

UUID = f"5f1c2a3b-0000-4000-8000-{os.getpid():08x}aaaa"


@pytest.mark.parametrize(
    "text, chosen",
    [
        ("", NetOption(NETWORKS, (("default", ()),))),
        ("default", NetOption(NETWORKS, (("default", ()),))),
        ("none", NetOption(NONE)),
        ("host", NetOption(HOST)),
        ("host,none,default", NetOption(HOST)),
        ("default,none", NetOption(NONE)),
        ("all", NetOption(NETWORKS, (("all", ()),))),
        ("default-restricted", NetOption(NETWORKS, (("default-restricted", ()),))),
        ("b,a", NetOption(NETWORKS, (("b", ()), ("a", ())))),
        ("a:IP=1.2.3.4;GW=fd::1,b", NetOption(NETWORKS, (("a", (("IP", "1.2.3.4"), ("GW", "fd::1"))), ("b", ())))),
        ("n:K=a=b;", NetOption(NETWORKS, (("n", (("K", "a=b"),)),))),
        ("n:K=", NetOption(NETWORKS, (("n", (("K", ""),)),))),
        ("n:", NetOption(NETWORKS, (("n", ()),))),
    ],
)
def test_values_of_net(text: str, chosen: NetOption) -> None:
    assert rkt.parse(text) == chosen


@pytest.mark.parametrize(
    "text, sentence",
    [
        ("a,,b", "'' .*network"),
        ("../etc", "'../etc' .*network"),
        ("a,b:X=1,a", "network 'a' .*twice"),
        ("a:IP", "KEY=VALUE, .*'IP'"),
        ("a:=1", "KEY=VALUE, .*'=1'"),
    ],
)
def test_what_makes_no_sense_is_refused(text: str, sentence: str) -> None:
    with pytest.raises(BadRequest, match=rf"^--net={re.escape(text)}: .*{sentence}"):
        rkt.parse(text)


def conf(place: Path, file: str, **fields: Any) -> None:
    place.mkdir(exist_ok=True)
    (place / file).write_text(json.dumps({"name": "n", "type": "bridge", **fields}))


def planned(text: str, place: Path, *, has_ports: bool = False) -> list[tuple[str, tuple[str, ...], Any]]:
    expected = rkt.plan(rkt.parse(text), str(place), has_ports=has_ports)
    return [(network.name, network.types(), args) for network, args in expected]


def test_networks_come_in_the_order_of_their_files_with_their_arguments(tmp_path: Path) -> None:
    conf(tmp_path, "20-x.conf", name="first-by-file")
    conf(tmp_path, "30-a.conf", name="second", type="macvlan")
    conf(tmp_path, "10-b.txt", name="no-configuration")
    assert planned("default,second:IP=10.0.0.9,first-by-file", tmp_path) == [
        ("first-by-file", ("bridge",), ()),
        ("second", ("macvlan",), (("IP", "10.0.0.9"),)),
        ("default", ("ptp",), ()),
    ]
    names = [name for name, _, _ in planned("all", tmp_path)]
    assert names == ["first-by-file", "second", "default-restricted", "default"]
    assert planned("none", tmp_path) == planned("host", tmp_path) == []
    assert planned("default-restricted", tmp_path / "absent") == [("default-restricted", ("ptp",), ())]


def test_a_configuration_replaces_the_one_built_in(tmp_path: Path) -> None:
    conf(tmp_path, "50-mine.conf", name="default", type="macvlan")
    assert planned("default", tmp_path) == [("default", ("macvlan",), ())]


def test_those_built_in_are_rkts() -> None:
    default, restricted = (network.plugins[0] for network in rkt.BUILTIN)
    routes = [{"dst": "0.0.0.0/0"}]
    ipam = {"type": "host-local", "subnet": "172.16.28.0/24", "routes": routes}
    assert default == {"type": "ptp", "ipMasq": True, "ipam": ipam}
    assert restricted == {"type": "ptp", "ipam": {"type": "host-local", "subnet": "172.31.0.0/16"}}


@pytest.mark.parametrize("version", [None, "0.1.0", "0.2.0", "0.3.1", "1.0.0"])
def test_a_configuration_needs_no_version(tmp_path: Path, version: str | None) -> None:
    conf(tmp_path, "10.conf", **({"cniVersion": version} if version else {}))
    ((network, _),) = rkt.plan(rkt.parse("n"), str(tmp_path), has_ports=False)
    assert network.version == (version if version in ("0.3.1", "1.0.0") else "0.4.0")


def test_one_that_is_not_there_is_refused_with_those_that_are_and_with_broken_files(tmp_path: Path) -> None:
    (tmp_path / "10.conf").write_text("{")
    with pytest.raises(BadRequest, match=r"'web' .*: default, default-restricted; .*10\.conf"):
        planned("web", tmp_path)
    assert planned("default", tmp_path)[0][0] == "default", "a broken file that nobody asks for does not matter"
    with pytest.raises(BadRequest, match=r"--net=all: .*10.conf .*JSON"):
        planned("all", tmp_path)


@pytest.mark.parametrize(
    "fields, types",
    [
        ([{"name": "a"}, {"name": "b", "ipMasq": True}], [("bridge",), ("bridge", "portmap")]),
        ([{"name": "a"}, {"name": "b"}], [("bridge",), ("bridge", "portmap")]),
        ([{"name": "a", "ipMasq": True}, {"name": "b", "ipMasq": True}], [("bridge", "portmap"), ("bridge",)]),
        ([{"name": "a", "capabilities": {"portMappings": True}}, {"name": "b"}], [("bridge",), ("bridge",)]),
    ],
)
def test_one_network_maps_the_host_ports(tmp_path: Path, fields: list[dict[str, Any]], types: Any) -> None:
    for number, one in enumerate(fields):
        conf(tmp_path, f"{number}.conf", **one)
    assert [kinds for _, kinds, _ in planned("a,b", tmp_path, has_ports=True)] == types
    assert [kinds for _, kinds, _ in planned("a,b", tmp_path)] == [("bridge",), ("bridge",)]


def rkt_pod(cni: FakeCni, place: Path, text: str) -> str:
    """Attach as rkt's entry point will; the pod's directory."""
    for number, name in enumerate(("default", "other")):
        conf(cni.root / "rkt", f"{number}.conf", name=name, type="first")
    (cni.root / "bin" / "portmap").symlink_to("second")
    (cni.root / "batch").write_text("link add DEVICE type veth peer name p-DEVICE\nlink set DEVICE up\n")
    place.mkdir()
    pod = Pod(UUID, "web", ports=(Port(80, 8080),))
    expected = rkt.plan(rkt.parse(text), f"{cni.root}/rkt", has_ports=True)
    assert rkt.attach_pod(pod, str(place), chosen=expected, settings=cni.settings) is not None
    return str(place)


def test_rkt_gets_the_pods_addresses_and_nothing_stays(tmp_path: Path) -> None:
    cni = FakeCni(tmp_path / "cni")
    directory = rkt_pod(cni, tmp_path / "pod", "other:IP=10.9.0.5;X=1,default")
    first, second = _info(directory)
    assert first == {
        "netName": "default",
        "netConf": f"{cni.root}/rkt/0.conf",
        "pluginPath": f"{cni.root}/bin/first",
        "ifName": "eth0",
        "ip": "10.9.0.5",
        "args": "",
        "mask": "255.255.255.0",
    }
    assert (second["netName"], second["ifName"], second["args"]) == ("other", "eth1", "IP=10.9.0.5;X=1")
    calls = [one.call for one in _record(directory).attachments]
    assert calls[1].args == (("IgnoreUnknown", "1"), ("IP", "10.9.0.5"), ("X", "1")) and calls[0].args == ()
    assert [bool(call.runtime) for call in calls] == [False, True], "the last maps the port, since none masquerades"
    os.rename(directory, f"{tmp_path}/exited-garbage")
    assert attach.detach(f"{tmp_path}/exited-garbage") == attach.detach(f"{tmp_path}/exited-garbage") == ""
    assert cni.left_over() == [] and not os.path.exists(f"/run/netns/clearpod-{UUID}")
    assert len(_info(f"{tmp_path}/exited-garbage")) == 2, "rkt reads it of exited pods, too"


def _info(directory: str) -> Any:
    return json.loads(Path(directory, rkt.INFO).read_text())


def _record(directory: str) -> record.Record:
    known = record.load(record.linked(directory))
    assert known is not None
    return known


def test_a_pod_of_rkts_sends_as_itself_only(tmp_path: Path) -> None:
    directory = rkt_pod(FakeCni(tmp_path / "cni"), tmp_path / "pod", "default")
    seen = attach.read(directory)
    assert seen is not None
    with namespace.inside_net(netns_path(UUID)):
        for one in seen.interfaces:
            shown = process.run(
                ["tc", "filter", "show", "dev", one.tap, "parent", "ffff:"], timeout_s=9
            ).stdout.decode()
            assert "pref 1 bpf" in shown and "u32" not in shown
    attach.detach(directory)


def test_none_makes_nothing_at_all(tmp_path: Path) -> None:
    cni = FakeCni(tmp_path / "cni")
    expected = rkt.plan(rkt.parse("none"), f"{tmp_path}/absent", has_ports=True)
    assert rkt.attach_pod(Pod(UUID, "web"), str(tmp_path), chosen=expected, settings=cni.settings) is None
    assert not (tmp_path / rkt.INFO).exists() and cni.calls() == [] and cni.left_over() == []


def test_a_plugin_that_fails_leaves_no_file(tmp_path: Path) -> None:
    cni = FakeCni(tmp_path / "cni")
    cni.trouble("first", "ADD", "exit 1")
    with pytest.raises(NetworkFailed):
        rkt_pod(cni, tmp_path / "pod", "default")
    assert os.listdir(tmp_path / "pod") == [] and cni.left_over() == []


@pytest.mark.parametrize(
    "ip, prefix, mask",
    [
        ("10.0.0.1", 24, "255.255.255.0"),
        ("10.0.0.1", 30, "255.255.255.252"),
        ("10.0.0.1", 0, "0.0.0.0"),
        ("10.0.0.1", 32, "255.255.255.255"),
        ("fd00::1", 64, "ffff:ffff:ffff:ffff:0:0:0:0"),
        ("fd00::1", 10, "ffc0:0:0:0:0:0:0:0"),
    ],
)
def test_a_mask_is_written_as_an_address(ip: str, prefix: int, mask: str) -> None:
    assert rkt._mask(ip, prefix) == mask


def test_an_id_of_which_a_path_elsewhere_could_be_made_is_refused(tmp_path: Path) -> None:
    for bad in ("../../etc/cron.d/x", "", ".hidden", "a/b"):
        with pytest.raises(BadRequest, match="pod's id"):
            record.place(str(tmp_path), bad)
