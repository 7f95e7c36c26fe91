# SPDX-License-Identifier: Apache-2.0
"""A guest that floods the bridge with frames of random addresses: nobody learns them, and neighbours are reached as
before. Each flood is made twice, as in test_spoofing: by a pod that may spoof, which shows that it is one, and by one
that may not.
"""

import os
import socket
from collections.abc import Callable, Iterator
from itertools import islice

import pytest

from tests.fakes import frames as f

from .test_spoofing import GATEWAY, Stage, believes, greet, make_stage, output_of

__all__ = ["make_stage"]

FRAMES, ENOUGH = 100_000, 2000
"""Of a flood, and to see that it is one."""


def hardware(number: int) -> str:
    """An address of a device of its own, another one for each number."""
    return ":".join(f"{byte:02x}" for byte in (2, 0x5A, *number.to_bytes(4, "big")))


def v4(number: int) -> str:
    return f"10.77.0.{2 + number % 250}"


def v6(number: int) -> str:
    return socket.inet_ntop(socket.AF_INET6, f.ip("fd77::")[:8] + number.to_bytes(8, "big"))


def by_hardware_address(stage: Stage) -> Iterator[bytes]:
    packet = f.ipv4(stage.me.v4, GATEWAY, f.UDP, bytes(8))
    for number in range(FRAMES):
        yield f.ether(hardware(number), f.IPV4, packet, to=hardware(number + 1))


def by_arp(stage: Stage) -> Iterator[bytes]:
    """Announcements of all addresses of the network, each with many hardware addresses."""
    for number in range(FRAMES):
        source = hardware(number)
        yield f.ether(source, f.ARP, f.arp(source, v4(number), v4(number), op=1 + number % 2))


def by_neighbour_discovery(stage: Stage) -> Iterator[bytes]:
    """Answers that nobody has asked for, of addresses of which there are 2^64."""
    for number in range(FRAMES // 10):
        source, who = hardware(number), v6(number + 1000)
        body = b"\x20\0\0\0" + f.ip(who) + f.option(2, source)
        yield f.ether(source, f.IPV6, f.ipv6(who, "ff02::1", f.ICMPV6, f.icmpv6(who, "ff02::1", 136, body)),
                      to="33:33:00:00:00:01")  # fmt: skip


def by_dhcp(stage: Stage) -> Iterator[bytes]:
    """Who asks a server for all of its addresses shows another hardware address each time."""
    data = f.udp("0.0.0.0", "255.255.255.255", (68, 67), bytes(240))
    for number in range(FRAMES // 10):
        yield f.ether(hardware(number), f.IPV4, f.ipv4("0.0.0.0", "255.255.255.255", f.UDP, data))


def learned() -> int:
    """How many hardware addresses the bridge knows."""
    return len({line.split()[0] for line in output_of("bridge", "fdb", "show", "br", "ct0").splitlines()})


def is_reached(stage: Stage) -> bool:
    """Whether the host's packets still go to the neighbour."""
    for address, port in ((stage.victim.v4, 68), (stage.victim.v6, 546)):
        greet(address, port, stage.at_victim[port])
    return (believes(stage.victim.v4), believes(stage.victim.v6)) == (stage.victim.mac, stage.victim.mac)


@pytest.mark.parametrize("flood", [by_hardware_address, by_arp, by_neighbour_discovery, by_dhcp])
def test_nobody_learns_what_a_guest_invents_and_its_neighbour_is_reached(
    make_stage: Callable[..., Stage], flood: Callable[[Stage], Iterator[bytes]]
) -> None:
    for may_spoof in (False, True):
        stage = make_stage(allow_spoofing=may_spoof)
        before = learned()
        for frame in islice(flood(stage), ENOUGH if may_spoof else FRAMES):
            os.write(stage.guest, f.NO_OFFLOAD + frame)
        stage.wait()
        new = learned() - before
        assert new > ENOUGH // 2 if may_spoof else (new <= 0 and is_reached(stage)), new
