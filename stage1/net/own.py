# SPDX-License-Identifier: Apache-2.0
"""Which Ethernet frames a pod may send on a device: a BPF program that accepts what is listed here and drops the rest.

Pure: called by tap_links. docs/admin/network.md describes the rules, docs/design/network.md the reasons. The program
drops a frame that it can't parse to the end.
"""

import _socket

from stage1.linux import bpf
from stage1.linux.bpf import ACCEPT, HALF, REFUSE, WORD, Block
from stage1.pod.network import Interface

_IPV4, _ARP, _IPV6 = 0x0800, 0x0806, 0x86DD
_SENDER, _TYPE, _NETWORK = 6, 12, 14
"""Offsets in the frame: the Ethernet header's sender and type, and what follows it."""
_ICMP, _IGMP, _TCP, _UDP, _ICMPV6 = 1, 2, 6, 17, 58
_HOP_BY_HOP, _FRAGMENT = 0, 44
_PAYLOADS = (_TCP, _UDP, _ICMPV6, 4, 33, 41, 47, 50, 59, 115, 132, 136)
"""The protocols that may follow an IPv6 header: none after which a receiver looks for one more header of the same
packet. IPv4, DCCP, IPv6, GRE, ESP, no next header, L2TP, SCTP and UDP-Lite are the numbers without a name.
"""
_REQUEST, _REPLY = 1, 2
_DHCP, _DHCP_CLIENT, _DHCPV6, _DHCPV6_CLIENT = 67, 68, 547, 546
_ROUTER_ADVERTISEMENT, _ICMP_REDIRECT, _IGMP_QUERY = 9, 5, 0x11
_ICMPV6_ERRORS, _ECHO = (1, 2, 3, 4), (128, 129)
_ROUTER_SOLICITATION, _SOLICITATION, _ADVERTISEMENT = 133, 135, 136
_MULTICAST_REPORTS = (131, 132, 143)
_PAYLOAD = _NETWORK + 40
_TARGET = _PAYLOAD + 8
"""Of IPv6: behind its header, and there the target of neighbour discovery."""
_TARGET_BYTES, _ROUTER_BYTES = 24, 8
"""Length of its messages, without options: of those with a target, and of a question for a router."""
_NONCE, _SOURCE_MAC, _TARGET_MAC = 0x0E01, 0x0101, 0x0201
"""Options of neighbour discovery: type, and the length in units of 8 bytes."""

_Address = tuple[int, bytes]
"""A pattern for addresses of 16 or 4 bytes: an offset and the bytes there. An empty list matches none, None any.
"""


def program(interface: Interface) -> Block:
    """The program for the frames of the guest's device."""
    mac = bytes.fromhex(interface.mac.replace(":", ""))
    v4, v6 = _addresses(interface, mac)
    return (
        _IS_UNTAGGED
        + bpf.need_bytes((_SENDER, mac))
        + bpf.load(_TYPE, HALF)
        + bpf.case(_IPV4, _IS_IPV4 + _one_of(v4, _NETWORK + 12) + _IPV4_PAYLOAD)
        + bpf.case(_ARP, _arp(mac, v4))
        + bpf.case(_IPV6, _ipv6(mac, v6))
        + REFUSE
    )


def _addresses(interface: Interface, mac: bytes) -> tuple[list[_Address] | None, list[_Address] | None]:
    """The allowed source addresses of frames, of both families."""
    texts = [text.partition("/")[0] for text in interface.addresses]
    if not texts:
        return None, None
    v4 = [(0, _socket.inet_pton(_socket.AF_INET, text)) for text in texts if ":" not in text]
    v6 = [(0, _socket.inet_pton(_socket.AF_INET6, text)) for text in texts if ":" in text]
    suffix = bytes([mac[0] ^ 2]) + mac[1:3] + b"\xff\xfe" + mac[3:]
    # Where the network has no IPv6 address for the pod, a router's advertisement may give it one that ends so.
    v6.append((0, b"\xfe\x80" + bytes(6) + suffix) if v6 else (8, suffix))
    return v4, v6


def _one_of(addresses: list[_Address] | None, at: int) -> Block:
    if addresses is None:
        return b""
    return bpf.need_bytes(*[(at + offset, expected) for offset, expected in addresses])


def _arp(mac: bytes, v4: list[_Address] | None) -> Block:
    """The filter of ARP: only the pod's addresses as sender; without a sender a probe whether its own is in use."""
    probe = bpf.load(_NETWORK + 6, HALF) + bpf.need(_REQUEST) + _one_of(v4, _NETWORK + 24) + ACCEPT
    return (
        _IS_ARP
        + bpf.need_bytes((_NETWORK + 8, mac))
        + bpf.load(_NETWORK + 14, WORD)
        + bpf.case(0, probe)
        + _one_of(v4, _NETWORK + 14)
        + ACCEPT
    )


def _ipv6(mac: bytes, v6: list[_Address] | None) -> Block:
    """Extension headers but two are refused: of those two, hop-by-hop options are for multicast reports only."""
    about_own = _one_of(v6, _TARGET) + _discovery_option(_TARGET_BYTES, mac)
    return (
        _IS_IPV6
        + bpf.case_bytes(_NETWORK + 8, bytes(16), _IS_DETECTION + about_own)
        + _one_of(v6, _NETWORK + 8)
        + bpf.load(_NETWORK + 6)
        + bpf.case(_ICMPV6, _icmpv6(mac, about_own))
        + _IPV6_PAYLOAD
    )


def _icmpv6(mac: bytes, about_own: Block) -> Block:
    return (
        bpf.load(_PAYLOAD)
        + bpf.case(_ADVERTISEMENT, about_own)
        + bpf.case(_SOLICITATION, _discovery_option(_TARGET_BYTES, mac))
        + bpf.case(_ROUTER_SOLICITATION, _discovery_option(_ROUTER_BYTES, mac))
        + _IS_PING
    )


def _discovery_option(length: int, mac: bytes) -> Block:
    """Check for at most one option after a message of `length` bytes: a nonce, or the pod's own hardware address."""
    return _OPTIONS[length] + bpf.need_bytes((_PAYLOAD + length + 2, mac)) + ACCEPT


# The blocks below are the same for all pods, and made once, to keep pod starts fast.


def _option(length: int) -> Block:
    return (
        bpf.load(_NETWORK + 4, HALF)
        + bpf.case(length, ACCEPT)
        + bpf.need(length + 8)
        + bpf.load(_PAYLOAD + length, HALF)
        + bpf.case(_NONCE, ACCEPT)
        + bpf.need(_SOURCE_MAC, _TARGET_MAC)
    )


def _ipv4_payload() -> Block:
    """The ports and types are in the first fragment."""
    kind = bpf.load_behind(_NETWORK)
    server = bpf.load_behind(_NETWORK, HALF) + bpf.refuse(_DHCP) + bpf.load_behind(_NETWORK + 2, HALF)
    first = (
        bpf.find_end(_NETWORK)
        + bpf.load(_NETWORK + 9)
        + bpf.case(_UDP, server + bpf.refuse(_DHCP_CLIENT) + ACCEPT)
        + bpf.case(_ICMP, kind + bpf.refuse(_ICMP_REDIRECT, _ROUTER_ADVERTISEMENT) + ACCEPT)
        + bpf.case(_IGMP, kind + bpf.refuse(_IGMP_QUERY) + ACCEPT)
        + ACCEPT
    )
    return bpf.load(_NETWORK + 6, HALF) + bpf.mask(0x1FFF) + bpf.case(0, first) + ACCEPT


def _udp_over_ipv6(at: int) -> Block:
    client = bpf.load(at + 2, HALF) + bpf.refuse(_DHCPV6_CLIENT)
    return bpf.load(at, HALF) + bpf.refuse(_DHCPV6) + client + ACCEPT


def _fragment() -> Block:
    """Check fragments: the first one must contain everything that is checked elsewhere; neighbour discovery is never
    fragmented.
    """
    pings = bpf.load(_PAYLOAD + 8) + _IS_PING
    first = bpf.case(_UDP, _udp_over_ipv6(_PAYLOAD + 8)) + bpf.case(_ICMPV6, pings) + _IS_PAYLOAD
    header = bpf.load(_PAYLOAD)
    return bpf.load(_PAYLOAD + 2, HALF) + bpf.mask(0xFFF8) + bpf.case(0, header + first) + header + _IS_PAYLOAD


_IS_UNTAGGED = bpf.load(bpf.VLAN_TAG_PRESENT, WORD) + bpf.need(0)
_IS_IPV4 = bpf.load(_NETWORK) + bpf.need_between(0x45, 0x4F)
_IS_IPV6 = bpf.load(_NETWORK) + bpf.mask(0xF0) + bpf.need(0x60)
_IS_ARP = bpf.need_bytes((_NETWORK, bytes.fromhex("000108000604")))
_IS_ARP += bpf.load(_NETWORK + 6, HALF) + bpf.need(_REQUEST, _REPLY)
"""Ethernet and IPv4, requests and replies."""
_IS_PING = bpf.need(*_ICMPV6_ERRORS, *_ECHO) + ACCEPT
_IS_PAYLOAD = bpf.need(*_PAYLOADS) + ACCEPT
_IS_REPORT = bpf.load(_PAYLOAD, HALF) + bpf.need(_ICMPV6 << 8)
_IS_REPORT += bpf.load(_PAYLOAD + 8) + bpf.need(*_MULTICAST_REPORTS) + ACCEPT
"""Eight bytes of hop-by-hop options, then MLD as a listener sends it."""
_IS_DETECTION = bpf.load(_NETWORK + 6) + bpf.case(_HOP_BY_HOP, _IS_REPORT) + bpf.need(_ICMPV6)
_IS_DETECTION += bpf.load(_PAYLOAD) + bpf.need(_SOLICITATION)
"""Frames from `::`: multicast reports of a device without an address, and duplicate address detection of its own
ones.
"""
_IPV4_PAYLOAD = _ipv4_payload()
_IPV6_PAYLOAD = bpf.case(_UDP, _udp_over_ipv6(_PAYLOAD)) + bpf.case(_HOP_BY_HOP, _IS_REPORT)
_IPV6_PAYLOAD += bpf.case(_FRAGMENT, _fragment()) + _IS_PAYLOAD
_OPTIONS = {length: _option(length) for length in (_TARGET_BYTES, _ROUTER_BYTES)}
