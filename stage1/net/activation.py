# SPDX-License-Identifier: Apache-2.0
"""Frames for a pod whose guest is suspended: requests for its addresses (ARP, neighbour discovery) are answered in its
place, and connections to its ports are recognised. For `cri.live.activation`. Pure, but for `listen`.

The socket sees what the pod's device receives before the rules that pass it on to the tap, which has no VMM now. What
it reads is anybody's.
"""

import ipaddress
import socket
import struct
from collections.abc import Collection
from typing import NamedTuple

from stage1.linux import namespace
from stage1.linux.libc import Guard
from stage1.net.settings import netns_path

MOST_BYTES = 256
"""Of a frame: all that is looked at lies there."""
_EVERY, _ARP, _IPV4, _IPV6 = 3, 0x0806, 0x0800, 0x86DD
_BUFFER_BYTES = 1 << 16
_TCP, _UDP, _ICMPV6, _SOLICITATION, _ADVERTISEMENT = 6, 17, 58, 135, 136
_SYN, _ACK = 0x02, 0x10
_PROTOCOLS = {_TCP: "tcp", _UDP: "udp"}
_SOLICITED_AND_OVERRIDE = 0x60000000
_HOPS = 255


class Endpoints(NamedTuple):
    """A pod's network endpoints: MAC, IP addresses in network byte order, and ports (protocol, number) that activate
    it.
    """

    mac: bytes
    ips: frozenset[bytes]
    ports: frozenset[tuple[str, int]]

    def answer(self, frame: bytes) -> bytes:
        """The answer to a request for an address of the pod; empty for everything else."""
        kind = frame[12:14]
        if kind == _ARP.to_bytes(2, "big"):
            return _arp_reply(frame, self)
        return _advertisement(frame, self) if kind == _IPV6.to_bytes(2, "big") else b""

    def is_connection(self, frame: bytes) -> bool:
        """Whether the frame opens a TCP connection to one of the ports (SYN without ACK), or is a datagram for one."""
        to, protocol, segment = _packet(frame)
        port = (_PROTOCOLS.get(protocol, ""), int.from_bytes(segment[2:4], "big"))
        if to not in self.ips or port not in self.ports:
            return False
        return protocol == _UDP or (len(segment) > 13 and segment[13] & (_SYN | _ACK) == _SYN)


def endpoints(mac: str, ips: Collection[str], *, ports: Collection[tuple[str, int]]) -> Endpoints:
    """Return the endpoints from addresses as people write them. Raises ValueError."""
    return Endpoints(bytes.fromhex(mac.replace(":", "")), frozenset(map(_packed, ips)), frozenset(ports))


def listen(pod_id: str, device: str) -> socket.socket:
    """A socket that has what `device` of the pod's netns receives, and does not block. Raises KernelError."""
    with namespace.inside_net(netns_path(pod_id)), Guard("listen", f"{device} of pod {pod_id}"):
        made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        try:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER_BYTES)
            made.setblocking(False)
            made.bind((device, _EVERY))
        except BaseException:
            made.close()
            raise
    return made


def _packed(ip: str) -> bytes:
    return ipaddress.ip_address(ip).packed


def _packet(frame: bytes) -> tuple[bytes, int, bytes]:
    """Return destination, protocol and payload of the frame's packet; no payload of later fragments and behind
    extensions.
    """
    kind, packet = frame[12:14], frame[14:]
    if kind == _IPV4.to_bytes(2, "big") and len(packet) >= 20:
        is_later = int.from_bytes(packet[6:8], "big") & 0x1FFF
        return packet[16:20], packet[9], b"" if is_later else packet[(packet[0] & 15) * 4 :]
    if kind == _IPV6.to_bytes(2, "big") and len(packet) >= 40:
        return packet[24:40], packet[6], packet[40:]
    return b"", 0, b""


def _arp_reply(frame: bytes, endpoints: Endpoints) -> bytes:
    """The answer to an ARP request for an IPv4 address that is not a probe."""
    asked = frame[14:42]
    head = struct.pack(">HHBBH", 1, _IPV4, 6, 4, 1)
    if len(asked) < 28 or asked[:8] != head or asked[24:28] not in endpoints.ips:
        return b""
    reply = struct.pack(">HHBBH", 1, _IPV4, 6, 4, 2) + endpoints.mac + asked[24:28] + asked[8:18]
    return asked[8:14] + endpoints.mac + _ARP.to_bytes(2, "big") + reply


def _advertisement(frame: bytes, endpoints: Endpoints) -> bytes:
    """The answer to a neighbour solicitation for an IPv6 address."""
    packet, asked = frame[14:54], frame[54:78]
    if len(asked) < 24 or packet[6] != _ICMPV6 or asked[0] != _SOLICITATION or packet[7] != _HOPS:
        return b""
    who, target = packet[8:24], asked[8:24]
    if target not in endpoints.ips or not any(who):  # none: it asks whether the address is free
        return b""
    text = struct.pack(">BBHI", _ADVERTISEMENT, 0, 0, _SOLICITED_AND_OVERRIDE) + target + b"\x02\x01" + endpoints.mac
    total = _checksum(target + who + struct.pack(">II", len(text), _ICMPV6) + text)
    text = text[:2] + total.to_bytes(2, "big") + text[4:]
    head = struct.pack(">IHBB", 6 << 28, len(text), _ICMPV6, _HOPS) + target + who
    return frame[6:12] + endpoints.mac + _IPV6.to_bytes(2, "big") + head + text


def _checksum(data: bytes) -> int:
    """The Internet's, of an even number of bytes."""
    total: int = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
