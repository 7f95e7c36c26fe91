# SPDX-License-Identifier: Apache-2.0
"""Which frames of a guest leave its pod: a table, sent through a real tap to a real device. Needs root."""

import os
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from stage1.linux import namespace, process
from stage1.net import tap_links
from tests.fakes import frames as f
from tests.fakes.patience import PATIENCE

MAC, THEIRS = "02:00:00:00:00:05", "02:00:00:00:00:09"
OWN, OWN2, OTHER = "10.9.0.5", "10.9.0.6", "10.9.0.9"
OWN6, OTHER6 = "fd09::5", "fd09::9"
LL, OTHER_LL, SLAAC = "fe80::ff:fe00:5", "fe80::ff:fe00:9", "2001:db8::ff:fe00:5"
NODES, ROUTERS, REPORTS, MANY = "ff02::1", "ff02::2", "ff02::16", "ff02::1:ff00:5"
BOTH = (f"{OWN}/24", f"{OWN2}/32", f"{OWN6}/64")
HOP_BY_HOP = bytes((58, 0, 5, 2, 0, 0, 1, 0))


def own(kind: int, payload: bytes) -> bytes:
    return f.ether(MAC, kind, payload)


def v4(source: str, protocol: int = f.UDP, payload: bytes = b"", **more: object) -> bytes:
    return own(f.IPV4, f.ipv4(source, OTHER, protocol, payload or f.udp(source, OTHER, (99, 7)), **more))  # type: ignore[arg-type]


def v6(source: str, protocol: int = f.UDP, payload: bytes = b"", *, to: str = OTHER6) -> bytes:
    return own(f.IPV6, f.ipv6(source, to, protocol, payload or f.udp(source, to, (99, 7))))


def ports(source: str, *numbers: int) -> bytes:
    return f.udp(source, OTHER6 if ":" in source else OTHER, (numbers[0], numbers[1]))


def icmpv6(source: str, kind: int, body: bytes = bytes(4), *, to: str = NODES) -> bytes:
    return v6(source, f.ICMPV6, f.icmpv6(source, to, kind, body), to=to)


def about(kind: int, target: str, options: bytes = b"", *, source: str = OWN6) -> bytes:
    """Neighbour solicitation (135) or advertisement (136)."""
    return icmpv6(source, kind, b"\xa0\0\0\0" + f.ip(target) + options)


def report(source: str, kind: int = 143, options: bytes = HOP_BY_HOP) -> bytes:
    return v6(source, 0, options + f.icmpv6(source, REPORTS, kind, bytes(4)), to=REPORTS)


def extended(*headers: int, last: bytes, kind: int = 58) -> bytes:
    """Extension headers of 8 bytes in front of `last`."""
    kinds = [*headers[1:], kind]
    return v6(OWN6, headers[0], b"".join(bytes((one, 0, 1, 4, 0, 0, 0, 0)) for one in kinds) + last, to=NODES)


def fragment(kind: int, payload: bytes, *, offset: int = 0, more: int = 1, source: str = OWN6) -> bytes:
    return v6(source, 44, struct.pack("!BBHI", kind, 0, offset << 3 | more, 7) + payload, to=NODES)


NONCE, MINE, YOURS = b"\x0e\x01abcdef", f.option(1, MAC), f.option(1, THEIRS)
ROUTER = bytes((64, 0, 7, 8)) + bytes(8)
OTHER_TYPES = (0x0003, 0x0026, 0x0600, 0x22F0, 0x8035, 0x809B, 0x8137, 0x8808, 0x8847, 0x8863, 0x8864, 0x888E)
OTHER_TYPES += (0x88CC, 0x88E5, 0x88F7, 0x9000, 0x9100)
"""Among them LLC, IPX, reverse ARP, MPLS, PPPoE, 802.1X and LLDP."""
LONG_V4 = b"\x94\x04\0\0"

ALLOWED = {
    "a datagram": v4(OWN),
    "a datagram from the second address": v4(OWN2),
    "a segment": v4(OWN, f.TCP, f.tcp(OWN, OTHER)),
    "SCTP": v4(OWN, 132, bytes(12)),
    "ESP": v4(OWN, 50, bytes(12)),
    "a ping": v4(OWN, f.ICMP, f.icmp(8)),
    "an answer to a ping": v4(OWN, f.ICMP, f.icmp(0)),
    "IPv4 options": v4(OWN, options=LONG_V4),
    "an IGMP report with router alert": v4(OWN, 2, b"\x22\0\0\0\0\0\0\0", options=LONG_V4),
    "a first fragment": v4(OWN, fragment=0x2000),
    "a later fragment": v4(OWN, f.UDP, b"\0\x43\0\x44more", fragment=0x2010),
    "the last fragment": v4(OWN, f.UDP, b"more", fragment=0x0020),
    "a DHCP client's question": v4(OWN, f.UDP, ports(OWN, 68, 67)),
    "multicast": f.ether(
        MAC, f.IPV4, f.ipv4(OWN, "224.0.0.251", f.UDP, b"\x14\xe9\x14\xe9\0\x08\0\0"), to="01:00:5e:00:00:fb"
    ),
    "an ARP request": own(f.ARP, f.arp(MAC, OWN, OTHER)),
    "an ARP reply": own(f.ARP, f.arp(MAC, OWN2, OTHER, op=2)),
    "gratuitous ARP": own(f.ARP, f.arp(MAC, OWN, OWN)),
    "an ARP probe for its own address": own(f.ARP, f.arp(MAC, "0.0.0.0", OWN)),
    "an ARP frame padded to 60 bytes": own(f.ARP, f.arp(MAC, OWN, OTHER) + bytes(18)),
    "a datagram over IPv6": v6(OWN6),
    "a datagram from the link-local address": v6(LL),
    "a segment over IPv6": v6(OWN6, f.TCP, f.tcp(OWN6, OTHER6)),
    "SCTP over IPv6": v6(OWN6, 132, bytes(12)),
    "a ping over IPv6": icmpv6(OWN6, 128),
    "an answer to a ping over IPv6": icmpv6(LL, 129),
    "an error over IPv6": icmpv6(OWN6, 2),
    "a question for a router": icmpv6(LL, 133, bytes(4) + MINE, to=ROUTERS),
    "a question for a neighbour": about(135, OTHER6, MINE),
    "a question for a neighbour without an option": about(135, OTHER6, source=LL),
    "an answer about its address": about(136, OWN6, f.option(2, MAC)),
    "an answer about its link-local address": about(136, LL, f.option(2, MAC), source=LL),
    "an unsolicited answer": about(136, OWN6),
    "duplicate address detection": about(135, OWN6, NONCE, source="::"),
    "duplicate address detection of link-local": about(135, LL, source="::"),
    "a multicast report": report(LL),
    "a multicast report without an address": report("::"),
    "an old multicast report": report(LL, 131),
    "a first fragment of IPv6": fragment(f.UDP, ports(OWN6, 99, 7)),
    "a later fragment of IPv6": fragment(f.UDP, bytes(64), offset=8),
    "the last fragment of IPv6": fragment(f.UDP, b"more", offset=8, more=0),
    "a long ping in fragments": fragment(58, f.icmpv6(OWN6, NODES, 128)),
    "a segment in fragments": fragment(f.TCP, f.tcp(OWN6, NODES)),
    "a DHCPv6 client's question": v6(LL, f.UDP, ports(LL, 546, 547)),
}
FORBIDDEN = {
    "another's hardware address": f.ether(THEIRS, f.IPV4, f.ipv4(OWN, OTHER, f.UDP, ports(OWN, 99, 7))),
    "half of another's hardware address": f.ether("02:00:00:00:01:05", f.ARP, f.arp(MAC, OWN, OTHER)),
    "a neighbour's address": v4(OTHER),
    "the address of nobody": v4("0.0.0.0", f.UDP, ports("0.0.0.0", 68, 67)),
    "an address elsewhere": v4("8.8.8.8"),
    "a neighbour's address with options": v4(OTHER, options=LONG_V4),
    "a fragment from a neighbour's address": v4(OTHER, f.UDP, b"more", fragment=0x2010),
    "a first fragment from a neighbour's address": v4(OTHER, fragment=0x2000),
    "IPv6 under the type of IPv4": own(f.IPV4, f.ipv6(OWN6, OTHER6, f.UDP, ports(OWN6, 99, 7))),
    "an IPv4 header that is too short": own(f.IPV4, b"\x44" + f.ipv4(OWN, OTHER, f.UDP, bytes(8))[1:]),
    "an IPv4 packet that is cut off": own(f.IPV4, f.ipv4(OWN, OTHER, f.UDP, b"")[:15]),
    "a datagram without ports": v4(OWN, f.UDP, b"\0"),
    "a DHCP offer": v4(OWN, f.UDP, ports(OWN, 67, 68)),
    "a DHCP offer behind options": v4(OWN, f.UDP, ports(OWN, 67, 68), options=LONG_V4 * 3),
    "a DHCP offer from an odd port": v4(OWN, f.UDP, ports(OWN, 999, 68)),
    "a DHCP offer in fragments": v4(OWN, f.UDP, ports(OWN, 67, 68), fragment=0x2000),
    "an ICMP redirect": v4(OWN, f.ICMP, f.icmp(5)),
    "an ICMP router advertisement": v4(OWN, f.ICMP, f.icmp(9), options=LONG_V4),
    "an IGMP query": v4(OWN, 2, b"\x11\0\0\0\0\0\0\0", options=LONG_V4),
    "ARP for a neighbour": own(f.ARP, f.arp(MAC, OTHER, OWN, op=2)),
    "a request as a neighbour": own(f.ARP, f.arp(MAC, OTHER, OWN)),
    "gratuitous ARP for a neighbour": own(f.ARP, f.arp(MAC, OTHER, OTHER, op=2)),
    "ARP about another's hardware": own(f.ARP, f.arp(MAC, OWN, OTHER, op=2, sender_mac=THEIRS)),
    "ARP sent by another's hardware": f.ether(THEIRS, f.ARP, f.arp(MAC, OWN, OTHER, op=2)),
    "an ARP probe for a neighbour's address": own(f.ARP, f.arp(MAC, "0.0.0.0", OTHER)),
    "an ARP reply of nobody": own(f.ARP, f.arp(MAC, "0.0.0.0", OWN, op=2)),
    "reverse ARP as ARP": own(f.ARP, f.arp(MAC, OWN, OTHER, op=4)),
    "ARP of another kind of hardware": own(f.ARP, f.arp(MAC, OWN, OTHER, head="000608000604")),
    "ARP with other lengths": own(f.ARP, f.arp(MAC, OWN, OTHER, head="000108000804")),
    "ARP that is cut off": own(f.ARP, f.arp(MAC, OWN, OTHER)[:17]),
    "a neighbour's address of IPv6": v6(OTHER6),
    "a neighbour's link-local address": v6(OTHER_LL),
    "an IPv6 address elsewhere": v6("2001:db8::1"),
    "an address of its own making": v6(SLAAC),
    "data without an address": v6("::"),
    "a ping without an address": icmpv6("::", 128),
    "IPv4 under the type of IPv6": own(f.IPV6, f.ipv4(OWN, OTHER, f.UDP, ports(OWN, 99, 7)) + bytes(40)),
    "an IPv6 packet that is cut off": v6(OWN6)[:40],
    "a DHCPv6 answer": v6(LL, f.UDP, ports(LL, 547, 546)),
    "a DHCPv6 answer from an odd port": v6(OWN6, f.UDP, ports(OWN6, 999, 546)),
    "a DHCPv6 answer in fragments": fragment(f.UDP, ports(OWN6, 547, 546)),
    "a router's advertisement": icmpv6(LL, 134, ROUTER),
    "a redirect": icmpv6(LL, 137, bytes(36)),
    "a multicast query": report(LL, 130),
    "a multicast query without options": icmpv6(LL, 130, bytes(20)),
    "a router's renumbering": icmpv6(LL, 138, bytes(12)),
    "a multicast router's advertisement": icmpv6(LL, 151),
    "an answer about a neighbour": about(136, OTHER6, f.option(2, MAC)),
    "an answer about a neighbour's link-local address": about(136, OTHER_LL, f.option(2, MAC), source=LL),
    "an answer about another's hardware": about(136, OWN6, f.option(2, THEIRS)),
    "an answer with two options": about(136, OWN6, f.option(2, MAC) + f.option(2, THEIRS)),
    "a question with another's hardware": about(135, OTHER6, YOURS),
    "a question for a router with another's hardware": icmpv6(LL, 133, bytes(4) + YOURS, to=ROUTERS),
    "a question as a neighbour": about(135, OWN6, MINE, source=OTHER6),
    "detection of a neighbour's address": about(135, OTHER6, NONCE, source="::"),
    "detection of a neighbour's link-local address": about(135, OTHER_LL, source="::"),
    "an answer without an address": about(136, OWN6, source="::"),
    "a router's advertisement without an address": icmpv6("::", 134, ROUTER),
    "a multicast report as a neighbour": report(OTHER_LL),
    "a router's advertisement behind hop-by-hop options": report(LL, 134),
    "an answer about a neighbour behind hop-by-hop options": extended(
        0, last=f.icmpv6(OWN6, NODES, 136, bytes(4) + f.ip(OTHER6))
    ),
    "long hop-by-hop options": report(LL, options=bytes((58, 1, 5, 2, 0, 0, 1, 10)) + bytes(8)),
    "a router's advertisement in a fragment": fragment(58, f.icmpv6(OWN6, NODES, 134, ROUTER)),
    "the same in a packet that is its only fragment": fragment(58, f.icmpv6(OWN6, NODES, 134, ROUTER), more=0),
    "an answer about a neighbour in a fragment": fragment(58, f.icmpv6(OWN6, NODES, 136, bytes(4) + f.ip(OTHER6))),
    "a question in a fragment": fragment(58, f.icmpv6(OWN6, NODES, 135, bytes(4) + f.ip(OTHER6))),
    "options in a fragment": fragment(60, bytes((58, 0, 1, 4, 0, 0, 0, 0)) + f.icmpv6(OWN6, NODES, 134, ROUTER)),
    "a fragment in a fragment": fragment(44, struct.pack("!BBHI", 58, 0, 1, 7) + f.icmpv6(OWN6, NODES, 134, ROUTER)),
    "a later fragment of a header": fragment(60, bytes(16), offset=1),
    "a first fragment with nothing in it": fragment(f.UDP, b""),
    "a fragment as a neighbour": fragment(f.UDP, bytes(16), offset=8, source=OTHER6),
    **{
        f"{what} behind extension header {number}": extended(number, last=last)
        for number in (0, 43, 51, 60, 135, 139, 140, 253)
        for what, last in {
            "a router's advertisement": f.icmpv6(OWN6, NODES, 134, ROUTER),
            "a neighbour's answer": f.icmpv6(OWN6, NODES, 136, bytes(4) + f.ip(OTHER6)),
        }.items()
    },
    "a datagram behind destination options": extended(60, last=ports(OWN6, 99, 7), kind=17),
    "two extension headers": extended(0, 60, last=f.icmpv6(OWN6, NODES, 134, ROUTER)),
    "a VLAN": f.tagged(v4(OWN), f.VLAN),
    "a priority without a VLAN": f.tagged(v4(OWN), f.VLAN, number=0),
    "ARP in a VLAN": f.tagged(own(f.ARP, f.arp(MAC, OTHER, OWN, op=2)), f.VLAN),
    "IPv6 in a VLAN": f.tagged(v6(OWN6), f.VLAN),
    "a service VLAN": f.tagged(v4(OWN), f.QINQ),
    "a VLAN in a service VLAN": f.tagged(v4(OWN), f.QINQ, f.VLAN),
    "a VLAN in a VLAN": f.tagged(v4(OWN), f.VLAN, f.VLAN),
    **{f"type {kind:#06x}": own(kind, bytes(60)) for kind in OTHER_TYPES},
}


class Wire:
    """A pod's line from the guest's end to where it leaves the pod."""

    def __init__(self, tap: str, guest: int, far: socket.socket) -> None:
        self.tap, self._guest, self._far = tap, guest, far

    def passes(self, frame: bytes, offload: bytes = f.NO_OFFLOAD) -> bool:
        """Whether the frame arrives, which is known when the one after it has, that may pass in any case."""
        mark = v6(LL, f.UDP, f.udp(LL, OTHER6, (99, 7), os.urandom(16)))
        os.write(self._guest, offload + frame)
        os.write(self._guest, f.NO_OFFLOAD + mark)
        expected, seen = {frame, frame[:12] + frame[16:]}, b""  # the kernel takes a tag out and says it beside
        arrived = False
        while seen != mark:
            seen = self._far.recv(1 << 17)
            arrived = arrived or seen in expected
        return arrived


Make = Callable[..., Wire]


def ip(*commands: str) -> None:
    ended = process.run(["ip", "-batch", "-"], timeout_s=10 * PATIENCE, input="\n".join(commands).encode())
    assert ended.code == 0, ended.stderr


@pytest.fixture
def make_wire() -> Iterator[Make]:
    """Makes the line of a pod that has these addresses."""
    path = f"/run/netns/t-own-{os.urandom(4).hex()}"
    with ExitStack() as stack:
        namespace.make_net(path)
        stack.callback(namespace.remove_net, path)
        stack.enter_context(namespace.inside_net(path))

        def make(addresses: tuple[str, ...] = BOTH, **options: bool) -> Wire:
            ip(
                f"link add eth0 address {MAC} type veth peer name far",
                "link set eth0 addrgenmode none up",
                *(f"addr add {address} dev eth0{' nodad' * (':' in address)}" for address in addresses),
            )
            # The far end is another netns' in a pod, and no device that gets a tap.
            ip("link add hub type bridge", "link set hub up", "link set far master hub up")
            (eth0,) = [one for one in tap_links.join_all(**options).interfaces if one.name == "eth0"]
            guest = stack.enter_context(f.guest_end(eth0.tap))
            return Wire(eth0.tap, guest, stack.enter_context(f.far_end("far")))

        yield make


def test_what_is_the_pods_own_passes_and_nothing_else_does(make_wire: Make) -> None:
    wire = make_wire()
    assert [name for name, frame in ALLOWED.items() if not wire.passes(frame)] == []
    assert [name for name, frame in FORBIDDEN.items() if wire.passes(frame)] == []
    assert len(FORBIDDEN) > 100


def test_a_pod_that_may_spoof_sends_all_of_it(make_wire: Make) -> None:
    """Which shows that each of the frames above would arrive."""
    wire = make_wire(is_free=True)
    assert [name for name, frame in {**ALLOWED, **FORBIDDEN}.items() if not wire.passes(frame)] == []


def test_a_line_of_several_addresses_passes_all_of_them(make_wire: Make) -> None:
    """As many as a guest takes, which is a program with long jumps."""
    many = tuple(f"10.9.0.{n}/24" for n in range(5, 13)) + tuple(f"fd09::{n:x}/64" for n in range(5, 13))
    wire = make_wire(many)
    for at in range(5, 13):
        for frame in (v4(f"10.9.0.{at}"), v6(f"fd09::{at:x}"), own(f.ARP, f.arp(MAC, f"10.9.0.{at}", OTHER))):
            assert wire.passes(frame), at
        assert wire.passes(about(136, f"fd09::{at:x}"))
    for frame in (v4("10.9.0.4"), v4("10.9.0.13"), v6("fd09::d"), about(136, "fd09::d")):
        assert not wire.passes(frame)


V4, V6 = BOTH[:1], BOTH[2:]
DHCP = v4("0.0.0.0", f.UDP, ports("0.0.0.0", 68, 67))


@pytest.mark.parametrize(
    "addresses, passing, refused",
    [
        pytest.param(V4, (v4(OWN), v6(LL), v6(SLAAC)), (v6(OWN6), v6(OTHER6), v6(OTHER_LL), DHCP), id="IPv4 only"),
        pytest.param(
            V6, (v6(OWN6), v6(LL)), (v6(SLAAC), v4(OWN), DHCP, own(f.ARP, f.arp(MAC, OWN, OTHER))), id="IPv6 only"
        ),
        pytest.param(
            (),
            (v4(OTHER), v6(OTHER6), v6(SLAAC), DHCP, own(f.ARP, f.arp(MAC, OTHER, OWN)), about(136, OTHER6)),
            (
                f.ether(THEIRS, f.IPV4, f.ipv4(OWN, OTHER, f.UDP, ports(OWN, 99, 7))),
                v4(OWN, f.UDP, ports(OWN, 67, 68)),
                icmpv6(LL, 134, ROUTER),
                f.tagged(v4(OWN), f.VLAN),
                own(0x88CC, bytes(60)),
            ),
            id="no address",
        ),
    ],
)
def test_settings_that_the_network_lacks_are_left_to_the_guest_as_far_as_nobody_else_has_it(
    make_wire: Make, addresses: tuple[str, ...], passing: tuple[bytes, ...], refused: tuple[bytes, ...]
) -> None:
    wire = make_wire(addresses)
    assert [frame.hex() for frame in passing if not wire.passes(frame)] == []
    assert [frame.hex() for frame in refused if wire.passes(frame)] == []


def large(source: str, length: int = 60000) -> tuple[bytes, bytes]:
    """A virtio-net header and a TCP segment that somebody else is to cut, with half a checksum."""
    is_v6, data = ":" in source, bytes(length)
    there = OTHER6 if is_v6 else OTHER
    segment = f.tcp(source, there, data)
    frame = v6(source, f.TCP, segment, to=there) if is_v6 else v4(source, f.TCP, segment)
    start = len(frame) - len(segment)
    return struct.pack("=BBHHHH", 1, 4 if is_v6 else 1, start + 20, 1348, start, 16), frame


@pytest.mark.parametrize("mine, other", [(OWN, OTHER), (OWN6, OTHER6)])
def test_segments_that_others_are_to_cut_are_measured_by_their_header(make_wire: Make, mine: str, other: str) -> None:
    wire = make_wire()
    offload, frame = large(mine)
    assert wire.passes(frame, offload)
    offload, frame = large(other)
    assert not wire.passes(frame, offload)


def test_what_is_refused_goes_nowhere_and_is_counted(make_wire: Make) -> None:
    """Not even to the netns, whose own addresses are those of the pod."""
    wire, ping = make_wire(), f.icmp(8)
    heard = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
    with heard:
        heard.settimeout(0)
        for to in (f.BROADCAST, MAC):
            assert not wire.passes(f.ether(MAC, f.IPV4, f.ipv4(OTHER, OWN, f.ICMP, ping), to=to))
        with pytest.raises(BlockingIOError):
            heard.recv(100)
    output = process.run(
        ["tc", "-s", "qdisc", "show", "dev", wire.tap, "ingress"], timeout_s=10 * PATIENCE
    ).stdout.decode()
    assert "(dropped 2," in output


def test_until_it_is_joined_a_tap_takes_nothing(make_wire: Make) -> None:
    """As in a warm pool."""
    make_wire()
    with tap_links.TapLinks() as made:
        made.set_up("tap0", mtu=1500)
    with f.guest_end("tap0") as guest:
        os.write(guest, f.NO_OFFLOAD + v4(OWN))
        os.write(guest, f.NO_OFFLOAD + f.ether(f.BROADCAST, f.ARP, f.arp(MAC, OTHER, OWN)))
        output = process.run(
            ["tc", "-s", "qdisc", "show", "dev", "tap0", "ingress"], timeout_s=10 * PATIENCE
        ).stdout.decode()
    assert "(dropped 2," in output
