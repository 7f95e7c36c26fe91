# SPDX-License-Identifier: Apache-2.0
"""Frames for a pod whose guest is saved: which are answered in its place, and which open a connection."""

import ipaddress
import struct

import pytest

from stage1.net import activation

MAC, PEER = bytes.fromhex("0a5800000002"), bytes.fromhex("0a5800000001")
V4, V6, OTHER = "10.77.0.2", "fd77::2", "10.77.0.3"
ENDPOINTS = activation.endpoints("0a:58:00:00:00:02", (V4, V6), ports={("tcp", 80), ("udp", 53)})
SYN, ACK, RST = 0x02, 0x10, 0x04


def packed(ip: str) -> bytes:
    return ipaddress.ip_address(ip).packed


def arp(target: str, *, kind: int = 1, sender: str = "10.77.0.1") -> bytes:
    head = struct.pack(">HHBBH", 1, 0x0800, 6, 4, kind)
    return b"\xff" * 6 + PEER + b"\x08\x06" + head + PEER + packed(sender) + bytes(6) + packed(target)


def ipv4(to: str, protocol: int, data: bytes, *, fragment: int = 0, options: bytes = b"") -> bytes:
    first = 0x40 | (5 + len(options) // 4)
    head = struct.pack(">BBHHHBBH", first, 0, 20 + len(data), 0, fragment, 64, protocol, 0)
    return MAC + PEER + b"\x08\x00" + head + packed("10.77.0.1") + packed(to) + options + data


def ipv6(to: str, protocol: int, data: bytes, *, who: str = "fd77::1", hops: int = 255) -> bytes:
    head = struct.pack(">IHBB", 6 << 28, len(data), protocol, hops)
    return MAC + PEER + b"\x86\xdd" + head + packed(who) + packed(to) + data


def tcp(port: int, flags: int) -> bytes:
    return struct.pack(">HHIIBBHHH", 40000, port, 1, 0, 5 << 4, flags, 1000, 0, 0)


def udp(port: int) -> bytes:
    return struct.pack(">HHHH", 40000, port, 8, 0)


def solicitation(target: str) -> bytes:
    return struct.pack(">BBHI", 135, 0, 0, 0) + packed(target) + b"\x01\x01" + PEER


@pytest.mark.parametrize(
    "frame",
    [
        ipv4(V4, 6, tcp(80, SYN)),
        ipv4(V4, 6, tcp(80, SYN | 0xC0)),  # with congestion notification
        ipv4(V4, 6, tcp(80, SYN), options=b"\x01" * 8),
        ipv4(V4, 17, udp(53)),
        ipv6(V6, 6, tcp(80, SYN)),
    ],
)
def test_the_first_frame_to_a_port_opens_a_connection(frame: bytes) -> None:
    assert ENDPOINTS.is_connection(frame) and ENDPOINTS.answer(frame) == b""


@pytest.mark.parametrize(
    "frame",
    [
        ipv4(V4, 6, tcp(81, SYN)),
        ipv4(V4, 17, udp(80)),
        ipv4(OTHER, 6, tcp(80, SYN)),
        ipv4(V4, 6, tcp(80, ACK)),
        ipv4(V4, 6, tcp(80, SYN | ACK)),
        ipv4(V4, 6, tcp(80, RST)),
        ipv4(V4, 6, tcp(80, SYN), fragment=5),
        ipv4(V4, 1, b"\x08\x00" + bytes(30)),
        ipv4(V4, 6, tcp(80, SYN))[:40],
        ipv6("fd77::3", 6, tcp(80, SYN)),
        arp(V4),
        b"",
        b"\x00" * 13,
        b"\x00" * 12 + b"\x08\x00",
        b"\x00" * 12 + b"\x08\x00" + b"\xff" * 20,
        b"\x00" * 12 + b"\x86\xdd" + bytes(39),
    ],
)
def test_all_else_does_not(frame: bytes) -> None:
    assert not ENDPOINTS.is_connection(frame)


def test_who_asks_for_an_ipv4_address_is_answered() -> None:
    reply = ENDPOINTS.answer(arp(V4))
    assert reply[:14] == PEER + MAC + b"\x08\x06" and reply[20:22] == b"\x00\x02"
    assert reply[22:42] == MAC + packed(V4) + PEER + packed("10.77.0.1")


def test_who_asks_for_an_ipv6_address_is_answered() -> None:
    reply = ENDPOINTS.answer(ipv6("ff02::1:ff00:2", 58, solicitation(V6)))
    assert reply[:14] == PEER + MAC + b"\x86\xdd"
    packet = reply[14:]
    assert packet[6:8] == bytes((58, 255)) and packet[8:40] == packed(V6) + packed("fd77::1")
    text = packet[40:]
    assert text[0] == 136 and text[8:24] == packed(V6) and text[24:] == b"\x02\x01" + MAC
    assert activation._checksum(packet[8:40] + struct.pack(">II", len(text), 58) + text) == 0


@pytest.mark.parametrize(
    "frame",
    [
        arp(OTHER),
        arp(V4, kind=2),
        arp(V4)[:40],
        ipv6("ff02::1", 58, solicitation("fd77::3")),
        ipv6("ff02::1", 58, solicitation(V6), who="::"),
        ipv6("ff02::1", 58, solicitation(V6), hops=64),
        ipv6("ff02::1", 58, solicitation(V6)[:20]),
        ipv6("ff02::1", 58, b"\x80" + bytes(30)),
        b"",
        b"\x00" * 12 + b"\x08\x06",
        b"\x00" * 12 + b"\x86\xdd",
    ],
)
def test_others_are_not_answered(frame: bytes) -> None:
    assert ENDPOINTS.answer(frame) == b""
