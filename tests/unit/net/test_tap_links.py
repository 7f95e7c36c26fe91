# SPDX-License-Identifier: Apache-2.0
"""What is made in a pod's netns without any process, beside what `ip` makes and shows. Needs root."""

import sys
from typing import Any

import pytest

from stage1.errors import NetworkFailed
from stage1.net import tap_links
from stage1.net.tap_links import TapLinks
from stage1.pod.network import Interface

from .test_pool_slot import _filters, here, ip

__all__ = ["here"]

BY_IP = """tuntap add dev theirs mode tap user 0
link set dev theirs mtu 9000 addrgenmode none
link set dev theirs up
"""
TWO = """link add eth0 type bridge
link set eth0 mtu 9000 up
addr add 10.9.0.5/24 dev eth0
link add eth1 type bridge
link set eth1 mtu 1300 up
"""
LOST = Interface("eth0", "", addresses=("10.9.0.5/24", "10.9.0.6/32", "fd09::5/64"))
STARTED: list[str] = []
sys.addaudithook(lambda event, args: STARTED.append(str(args[0])) if event == "os.posix_spawn" else None)


def devices() -> dict[str, Any]:
    return {link["ifname"]: link for link in ip("-d", "addr", "show")}


def addresses(device: dict[str, Any]) -> set[tuple[str, int]]:
    return {(one["local"], one["prefixlen"]) for one in device["addr_info"] if one.get("local")}


def test_a_tap_is_what_ip_makes(here: str) -> None:
    ip("-batch", "-", batch=BY_IP)
    with TapLinks() as made:
        number = made.set_up("ours", mtu=9000)
    result = devices()
    own = ("ifindex", "ifname", "address", "flags", "operstate")  # that nobody is at the other end is seen late
    ours, theirs = ({k: v for k, v in result[name].items() if k not in own} for name in ("ours", "theirs"))
    assert ours == theirs and ours["mtu"] == 9000 and result["ours"]["ifindex"] == number
    output = "network namespace: make the tap: ours: Device or resource busy"
    with pytest.raises(NetworkFailed, match=output), TapLinks() as made:
        made.set_up("ours", mtu=9000)


def test_each_device_is_joined_to_a_tap_of_its_size_and_no_process_is_started(here: str) -> None:
    ip("-batch", "-", batch=TWO)
    before = len(STARTED)
    network = tap_links.join_all()
    assert len(STARTED) == before, STARTED[before:]
    result = devices()
    assert [(one.name, one.mtu) for one in network.interfaces] == [("eth0", 9000), ("eth1", 1300)]
    for one in network.interfaces:
        assert result[one.tap]["mtu"] == one.mtu and addresses(result[one.tap]) == set()
        assert f"Redirect to device {one.tap}" in _filters(one.name)
        assert f"Redirect to device {one.name}" in _filters(one.tap)
    assert "UP" in result["lo"]["flags"]


def test_taps_that_are_cut_are_down_and_devices_are_not(here: str) -> None:
    ip("-batch", "-", batch=TWO)
    taps = [one.tap for one in tap_links.join_all().interfaces]
    assert all("UP" in devices()[name]["flags"] for name in taps)
    for _ in range(2):
        tap_links.cut_all()
        assert not any("UP" in devices()[name]["flags"] for name in taps)
    assert all("UP" in devices()[name]["flags"] for name in ("lo", "eth0", "eth1"))


def test_processes_find_the_devices_as_they_are(here: str) -> None:
    ip("-batch", "-", batch=TWO)
    network = tap_links.as_they_are()
    assert [(one.name, one.tap) for one in network.interfaces] == [("eth0", ""), ("eth1", "")]
    assert devices().keys() == {"lo", "eth0", "eth1"} and "UP" in devices()["lo"]["flags"]


def test_a_device_that_was_lost_is_stood_in_for_once_with_all_its_addresses(here: str) -> None:
    assert tap_links.stand_in((LOST,)) and not tap_links.stand_in((LOST,))
    assert addresses(devices()["eth0"]) == {("10.9.0.5", 24), ("10.9.0.6", 32), ("fd09::5", 64)}


@pytest.mark.parametrize("odd", ["300.1.1.1/24", "10.0.0.1/x", "10.0.0.1/999", "fd09::5::/64", "", "10.0.0.1/-1"])
def test_what_a_plugin_called_an_address_is_named_when_it_is_none(here: str, odd: str) -> None:
    with pytest.raises(NetworkFailed, match="address"):
        tap_links.stand_in((LOST._replace(addresses=(odd,)),))


def test_what_the_kernel_refuses_is_reported_with_the_device(here: str) -> None:
    with pytest.raises(NetworkFailed, match=r"netlink: .*eth0 .*10\.0\.0\.1/99: Invalid arg"):
        tap_links.stand_in((LOST._replace(addresses=("10.0.0.1/99",)),))
