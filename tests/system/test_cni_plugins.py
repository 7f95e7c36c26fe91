# SPDX-License-Identifier: Apache-2.0
"""The network with Debian's CNI plugins, in a netns that stands for the host. Needs root, iptables and the plugins."""

import os

import pytest

from stage1.errors import NetworkFailed
from stage1.linux import process
from stage1.net import attach
from stage1.pod.model import Port
from tests.fakes.bare_pods import Pods, in_pod
from tests.fakes.outer_net import OuterNet, conflist
from tests.fakes.patience import PATIENCE


def test_bridge_host_local_and_portmap_leave_nothing_of_a_pod(outer: OuterNet, pods: Pods) -> None:
    before = pods.warm_up()
    directory, seen = pods.attach(ports=(Port(80, 8080), Port(53, 5353, "udp", "127.0.0.1"), Port(9, 9999, "sctp")))
    (eth0,) = seen.interfaces
    assert (eth0.name, eth0.mtu, len(seen.ips)) == ("eth0", 1400, 2)
    assert [address.partition("/")[0] for address in eth0.addresses] == list(seen.ips)
    assert {(route.destination, route.gateway) for route in seen.routes} == {
        ("0.0.0.0/0", "10.77.0.1"),
        ("::/0", "fd77::1"),
    }
    during = outer.state()
    assert seen.ips[0] in during and "8080" in during and "5353" in during and "-p sctp -m sctp --dport 9999" in during
    assert "inet " in in_pod(directory, "ip", "addr", "show", "eth0"), "DEL needs the addresses"
    attach.detach(directory)
    attach.detach(directory)
    assert outer.state() == before


def test_the_netns_deleted_under_our_feet_leaks_no_rule(outer: OuterNet, pods: Pods) -> None:
    before = pods.warm_up()
    directory, _ = pods.attach(ports=(Port(80, 8080),))
    assert (
        process.run(["ip", "netns", "del", f"clearpod-{os.path.basename(directory)}"], timeout_s=5 * PATIENCE).code == 0
    )
    attach.detach(directory)
    assert outer.state() == before


def test_an_exhausted_pool_is_reported_and_nothing_of_the_pod_stays(outer: OuterNet, pods: Pods) -> None:
    document = conflist(outer.root)
    document["plugins"][0]["ipam"]["ranges"] = [[{"subnet": "10.77.0.0/30"}]]
    outer.configure(document)
    pods.attach()
    before = outer.state()
    with pytest.raises(NetworkFailed, match=r"'bridge'.*'test'.*ADD: .*no IP addresses"):
        pods.attach()
    assert outer.state() == before


def test_bandwidth_tuning_and_firewall_in_the_chain_work_and_go(outer: OuterNet, pods: Pods) -> None:
    bandwidth = {"type": "bandwidth", "capabilities": {"bandwidth": True}}
    outer.configure(conflist(outer.root, bandwidth, {"type": "firewall"}, {"type": "tuning", "mtu": 1300}))
    before = pods.warm_up()
    directory, seen = pods.attach(ingress_bits=8_000_000, egress_bits=4_000_000)
    shaped = process.run(["tc", "qdisc", "show"], timeout_s=5 * PATIENCE).stdout.decode()
    assert "rate 8Mbit" in shaped and "rate 4Mbit" in shaped
    assert [one.mtu for one in seen.interfaces] == [1300]
    attach.detach(directory)
    assert outer.state() == before


def test_ptp_and_a_network_without_addresses_are_understood(outer: OuterNet, pods: Pods) -> None:
    ipam = conflist(outer.root)["plugins"][0]["ipam"]
    outer.configure({"cniVersion": "0.4.0", "name": "p", "plugins": [{"type": "ptp", "ipMasq": True, "ipam": ipam}]})
    _, seen = pods.attach()
    assert len(seen.ips) == 2 and ("0.0.0.0/0", "10.77.0.1") in [(r.destination, r.gateway) for r in seen.routes]
    outer.configure({"cniVersion": "1.0.0", "name": "q", "plugins": [{"type": "bridge", "bridge": "ct1"}]})
    _, bare = pods.attach()
    assert (bare.ips, bare.routes, [one.addresses for one in bare.interfaces]) == ((), (), [()])


def test_check_finds_a_network_as_made_and_one_whose_address_is_gone(outer: OuterNet, pods: Pods) -> None:
    document = conflist(outer.root)
    document["plugins"] = document["plugins"][:1]
    outer.configure(document)
    directory, seen = pods.attach()
    attach.check(directory)
    in_pod(directory, "ip", "addr", "del", seen.interfaces[0].addresses[0], "dev", "eth0")
    with pytest.raises(NetworkFailed, match=r"'bridge'.*'test'.*CHECK: "):
        attach.check(directory)
