# SPDX-License-Identifier: Apache-2.0
"""The embedded network, several networks per pod and plugins of other shapes, in a netns that stands for the host."""

import json
import re

import pytest

from stage1.errors import NetworkFailed
from stage1.net import attach, networks, rkt, status_gc
from stage1.pod.model import Pod, Port
from stage1.pod.network import Neighbour, Route
from tests.fakes.bare_pods import Pods, in_pod
from tests.fakes.outer_net import BIN_DIR, OuterNet, conflist


def second(outer: OuterNet, name: str = "storage", subnet: str = "10.99.0.0/24") -> None:
    ipam = {"type": "host-local", "dataDir": f"{outer.root}/leases", "ranges": [[{"subnet": subnet}]]}
    bridge = {"type": "bridge", "bridge": f"br-{name}", "ipam": ipam}
    outer.configure({"cniVersion": "0.4.0", "name": name, "plugins": [bridge]}, f"50-{name}.conflist")


def test_the_embedded_network_works_and_leaves_nothing_of_a_pod(outer: OuterNet, pods: Pods) -> None:
    outer.use_default()
    assert networks.lacks(outer.settings) == ""
    before = pods.warm_up()
    directory, seen = pods.attach(ports=(Port(80, 8080),))
    assert [ip.rpartition(".")[0] or ip.partition("::")[0] for ip in seen.ips] == ["10.78.0", "fd78"]
    assert seen.networks == ("clearpod",)
    during = outer.state()
    assert "clearpod0" in during and "8080" in during and "CNI-FORWARD" in during
    gateways = {(route.destination, route.gateway) for route in seen.routes}
    assert gateways == {("0.0.0.0/0", "10.78.0.1"), ("::/0", "fd78::1")}
    attach.detach(directory)
    assert outer.state() == before


def test_a_pod_with_three_networks_has_three_devices_and_leaves_nothing(outer: OuterNet, pods: Pods) -> None:
    second(outer)
    second(outer, "backup", "fd99::/64")
    attach.detach(pods.attach(ports=(Port(1, 1),), networks=("storage", "backup"))[0])
    before = outer.state()
    directory, seen = pods.attach(ports=(Port(80, 8080),), networks=("storage", "backup"))
    assert [(one.name, len(one.addresses)) for one in seen.interfaces] == [("eth0", 2), ("eth1", 1), ("eth2", 1)]
    assert len({one.mac for one in seen.interfaces}) == len({one.tap for one in seen.interfaces}) == 3
    assert seen.networks == ("test", "storage", "backup")
    assert [ip.startswith(begin) for ip, begin in zip(seen.ips, ("10.77.", "fd77:", "10.99.", "fd99:"), strict=True)]
    assert {route.device for route in seen.routes} == {"eth0"}
    assert _rules(outer, 8080) == _single(outer, pods) > 0, "ports are the first one's only"
    attach.detach(directory)
    assert outer.state() == before


def _rules(outer: OuterNet, port: int) -> int:
    """The number of rules for that port of the host; pods' random ids may have its digits."""
    return len(re.findall(rf"--dports? {port}\b", outer.state()))


def _single(outer: OuterNet, pods: Pods) -> int:
    """The number of rules for a port of a pod with one network."""
    before = outer.state()
    directory, _ = pods.attach(ports=(Port(80, 9090),))
    count = _rules(outer, 9090)
    attach.detach(directory)
    assert outer.state() == before
    return count


def test_when_the_second_network_fails_the_first_is_undone(outer: OuterNet, pods: Pods) -> None:
    second(outer, subnet="10.99.0.0/30")
    attach.detach(pods.attach(networks=("storage",))[0])
    pods.attach(networks=("storage",))
    before = outer.state()
    sentence = r"'bridge' of network 'storage' failed at ADD: .*no IP addresses available in range set: 10.99.0.1-"
    with pytest.raises(NetworkFailed, match=sentence):
        pods.attach(networks=("storage",))
    assert outer.state() == before


ODD = """#!/bin/sh
# A plugin of another make: a pair of devices, several addresses, a gateway outside of the subnet, no "interfaces".
cat > /dev/null
in_pod() { nsenter --net="$CNI_NETNS" ip "$@"; }
case $CNI_COMMAND in
ADD)
    in_pod link add zzz9 type veth peer name aaa0
    in_pod link set aaa0 up
    in_pod link set zzz9 mtu 1380 up
    for address in 10.5.5.5/32 10.5.5.6/32; do in_pod addr add $address dev zzz9; done
    in_pod -6 addr add fd05::5/128 dev zzz9 nodad
    in_pod route add 169.254.1.1 dev zzz9 scope link
    in_pod route add default via 169.254.1.1 dev zzz9 onlink metric 50
    in_pod route add 10.6.0.0/16 dev zzz9 mtu 1300 advmss 1200
    in_pod route add 10.7.0.0/16 dev zzz9 table 100
    in_pod -6 route add default via fe80::1 dev zzz9
    in_pod neigh add 169.254.1.1 lladdr ee:ee:ee:ee:ee:ee dev zzz9 nud permanent
    cat "${0%/*}/answer" ;;
DEL) in_pod link del zzz9 2> /dev/null; exit 0 ;;
esac
"""
ANSWER = {
    "cniVersion": "1.1.0",
    "ips": [{"address": "10.5.5.5/32"}, {"address": "10.5.5.6/32", "gateway": None}, {"address": "fd05::5/128"}],
    "routes": [{"dst": "10.6.0.0/16", "mtu": 1300, "advmss": 1200, "priority": 7, "table": 100, "scope": 253}],
    "dns": {"nameservers": ["10.5.0.2"], "domain": "odd", "search": ["even"], "options": ["ndots:2", "edns0"]},
    "x-vendor": {"anything": [1, None, {"deep": True}]},
}


def odd(outer: OuterNet, answer: object = ANSWER) -> None:
    """A third-party plugin as the node's network."""
    place = outer.root / "odd"
    place.mkdir(exist_ok=True)
    (place / "odd").write_text(ODD)
    (place / "odd").chmod(0o755)
    (place / "answer").write_text(json.dumps(answer))
    outer.settings = outer.settings._replace(bin_dirs=(BIN_DIR, str(place)))
    outer.configure({"cniVersion": "1.1.0", "name": "odd", "plugins": [{"type": "odd", "x": [1]}]})


def test_an_unusual_but_valid_result_is_understood(outer: OuterNet, pods: Pods) -> None:
    odd(outer)
    before = outer.state()
    directory, seen = pods.attach()
    (device,) = [one for one in seen.interfaces if one.name == "zzz9"]
    assert (device.mtu, sorted(device.addresses)) == (1380, ["10.5.5.5/32", "10.5.5.6/32", "fd05::5/128"])
    assert seen.ips == ("10.5.5.5", "10.5.5.6", "fd05::5")
    ours = [route for route in seen.routes if route.device == "zzz9"]
    assert Route("0.0.0.0/0", "169.254.1.1", "zzz9", 50) in ours
    assert Route("10.6.0.0/16", "", "zzz9", 0, 1300, 1200) in ours
    assert Route("::/0", "fe80::1", "zzz9", 1024) in ours
    assert not [route for route in ours if route.destination == "10.7.0.0/16"], "other tables are the netns' own"
    assert Neighbour("169.254.1.1", "ee:ee:ee:ee:ee:ee", "zzz9") in seen.neighbours
    assert seen.dns_servers == ("10.5.0.2",) and seen.dns_searches == ("odd", "even")
    assert seen.dns_options == ("ndots:2", "edns0")
    attach.detach(directory)
    assert outer.state() == before


@pytest.mark.parametrize(
    "answer, ips",
    [
        ({}, ("10.5.5.5", "10.5.5.6", "fd05::5")),
        ({"ips": None, "interfaces": None, "routes": None, "dns": None}, ("10.5.5.5", "10.5.5.6", "fd05::5")),
        (
            {
                "interfaces": [{"name": "zzz9", "sandbox": "/x"}, {"name": "host0", "mac": ""}],
                "ips": [{"address": "10.5.5.6/32", "interface": 0}, {"address": "10.0.0.1/8", "interface": 1}],
            },
            ("10.5.5.6",),
        ),
    ],
)
def test_incomplete_results_are_completed_from_the_netns(
    outer: OuterNet, pods: Pods, answer: object, ips: tuple[str, ...]
) -> None:
    odd(outer, answer)
    _, seen = pods.attach()
    assert set(seen.ips) == set(ips)


def test_a_third_partys_plugin_can_be_chained_with_debians(outer: OuterNet, pods: Pods) -> None:
    odd(outer, {**ANSWER, "cniVersion": "1.0.0"})
    chain = [{"type": "odd"}, {"type": "tuning", "sysctl": {"net.ipv4.conf.all.arp_filter": "1"}}]
    outer.configure({"cniVersion": "1.0.0", "name": "odd", "plugins": chain})
    directory, seen = pods.attach()
    assert seen.ips == ("10.5.5.5", "10.5.5.6", "fd05::5")
    assert in_pod(directory, "sysctl", "-n", "net.ipv4.conf.all.arp_filter").strip() == "1"


def test_a_network_of_a_version_that_debians_plugins_do_not_speak_is_not_ready(outer: OuterNet) -> None:
    speaks = status_gc.versions(f"{BIN_DIR}/bridge")
    assert "1.0.0" in speaks
    (network, _) = networks.find(outer.settings)
    assert network is not None and status_gc.status(network, outer.settings) == ""
    if status_gc.FIRST in speaks:
        pytest.skip(f"{BIN_DIR}/bridge speaks {status_gc.FIRST}")
    output = status_gc.status(network._replace(version=status_gc.FIRST), outer.settings)
    assert output.startswith("the CNI plugin 'bridge' supports versions 0.1.0, ") and "and not 1.1.0" in output
    outer.configure({**conflist(outer.root), "cniVersion": status_gc.FIRST})
    assert status_gc.collect_garbage(outer.settings) == (), "plugins without GC are not asked for it"


def test_rkts_built_in_network_with_a_host_port_leaks_no_rule(outer: OuterNet) -> None:
    expected = rkt.plan(rkt.parse("default,default-restricted"), f"{outer.root}/absent", has_ports=True)
    leases = {"dataDir": f"{outer.root}/leases"}
    kept = []
    for network, args in expected:
        first, *rest = network.plugins
        kept.append((network._replace(plugins=({**first, "ipam": first["ipam"] | leases}, *rest)), args))

    def once(number: int) -> tuple[str, str]:
        directory = outer.root / f"pod{number}"
        directory.mkdir()
        pod = Pod(f"6733c088-a507-4694-aabf-eda9d3f3f5c{number}", "web", ports=(Port(80, 8080),))
        seen = rkt.attach_pod(pod, str(directory), chosen=tuple(kept), settings=outer.settings)
        assert seen is not None and [one.name for one in seen.interfaces] == ["eth0", "eth1"]
        restricted, default = json.loads((directory / rkt.INFO).read_text())
        assert (restricted["netName"], default["netName"]) == ("default-restricted", "default")
        assert default["ip"].startswith("172.16.28.") and default["mask"] == "255.255.255.0"
        assert default["pluginPath"] == f"{BIN_DIR}/ptp"
        assert [route.device for route in seen.routes if route.destination == "0.0.0.0/0"] == ["eth1"]
        during = outer.state()
        assert attach.detach(str(directory)) == ""
        return during, outer.state()

    _, before = once(0)
    during, after = once(1)
    assert "8080" in during and after == before
