# SPDX-License-Identifier: Apache-2.0
"""What the guest is told, from what is in a pod's netns, in the words of `ip -json`."""

from typing import Any

import pytest

from stage1.errors import NetworkFailed
from stage1.net import tap
from stage1.pod.network import Interface, Neighbour, PodNetwork, Route

LO = {"ifindex": 1, "ifname": "lo", "link_type": "loopback", "address": "00:00:00:00:00:00", "addr_info": []}
V4 = {"family": "inet", "local": "10.1.0.5", "prefixlen": 24, "scope": "global"}
V6 = {"family": "inet6", "local": "fd00::5", "prefixlen": 64, "scope": "global", "tentative": True}
LINK_LOCAL = {"family": "inet6", "local": "fe80::1", "prefixlen": 64, "scope": "link"}
MAC = "02:00:00:00:00:05"


def link(name: str = "eth0", index: int = 2, *addresses: dict[str, Any], **changes: Any) -> dict[str, Any]:
    base = {"ifindex": index, "ifname": name, "link_type": "ether", "mtu": 1400, "address": MAC}
    return {**base, "addr_info": list(addresses), **changes}


def route(destination: str, gateway: str = "", device: str = "eth0", **more: Any) -> dict[str, Any]:
    return {"dst": destination, "dev": device, **({"gateway": gateway} if gateway else {}), **more}


ETH0 = Interface("eth0", MAC, 1400, ("10.1.0.5/24", "fd00::5/64"), "tap2")


def told(*, routes: Any = (), routes6: Any = (), neighbours: Any = ()) -> PodNetwork:
    return tap.network((ETH0,), tap.Seen([], list(routes), list(neighbours), list(routes6)))


def test_each_ethernet_device_of_the_netns_becomes_one_of_the_guest() -> None:
    bond = link("slave", 4, master="bond0")
    tunnel = link("tun0", 5, link_type="none")
    net1 = link("net1", 7, mtu=9000)
    result = tap.interfaces([LO, net1, link("eth0", 2, V4, V6, LINK_LOCAL), bond, tunnel])
    assert result == (ETH0, Interface("net1", MAC, 9000, (), "tap7"))


@pytest.mark.parametrize(
    "address, told_as",
    [
        (V4, ("10.1.0.5/24",)),
        ({**V4, "scope": "link"}, ("10.1.0.5/24",)),
        ({**V4, "address": "10.1.0.1", "prefixlen": 31}, ("10.1.0.5/32",)),
        (LINK_LOCAL, ()),
        ({}, ()),
    ],
)
def test_addresses_are_reported_but_not_the_link_local_one(address: Any, told_as: tuple[str, ...]) -> None:
    (one,) = tap.interfaces([link("eth0", 2, address)])
    assert one.addresses == told_as


def test_routes_by_a_gateway_come_after_those_that_lead_to_it() -> None:
    default, host = route("default", "169.254.1.1"), route("169.254.1.1", scope="link")
    assert told(routes=[default, host]).routes == (
        Route("169.254.1.1/32", "", "eth0"),
        Route("0.0.0.0/0", "169.254.1.1", "eth0"),
    )


@pytest.mark.parametrize(
    "entry, told_as",
    [
        (route("default", "fd00::1"), Route("::/0", "fd00::1", "eth0")),
        (route("fd01::/16", "fe80::1", protocol="static"), Route("fd01::/16", "fe80::1", "eth0")),
        (route("fd01::9"), Route("fd01::9/128", "", "eth0")),
        (route("fd03::/16", "fe80::1", metric=50), Route("fd03::/16", "fe80::1", "eth0", 50)),
        (route("fd03::/16", metrics=[{"mtu": 1300, "advmss": 1200}]), Route("fd03::/16", "", "eth0", 0, 1300, 1200)),
        (route("fd03::/16", metrics=[{"window": 7}], metric=1024), Route("fd03::/16", "", "eth0", 1024)),
        (route("fd00::/64", protocol="kernel"), None),
        (route("default", "fe80::1", protocol="ra"), None),
        (route("fd02::/64", device="tap2"), None),
        (route("fd02::/64", type="unreachable"), None),
        ({"dst": "default", "nexthops": []}, None),
    ],
)
def test_the_guest_gets_the_routes_that_its_kernel_does_not_make(entry: Any, told_as: Route | None) -> None:
    assert told(routes6=[entry]).routes == ((told_as,) if told_as else ())


def test_permanent_neighbours_are_passed_on() -> None:
    entry = {"dst": "169.254.1.1", "dev": "eth0", "lladdr": "ee:ee:ee:ee:ee:ee", "state": ["PERMANENT"]}
    known = told(neighbours=[entry, {**entry, "dev": "tap2"}, {"dst": "1.1.1.1", "dev": "eth0"}])
    assert known.neighbours == (Neighbour("169.254.1.1", "ee:ee:ee:ee:ee:ee", "eth0"),)


def test_more_than_the_agent_takes_is_refused_and_not_cut() -> None:
    with pytest.raises(NetworkFailed, match=r"65 routes; .*at most 64"):
        told(routes=[route(f"10.0.{n}.0/24") for n in range(65)])
