# SPDX-License-Identifier: Apache-2.0
"""Ethernet frames as a guest could write them, honest ones and others; and the two ends of a wire to send them over.

Addresses are text. Checksums are right, so that a kernel that receives such a frame believes it.
"""

import fcntl
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager

IPV4, ARP, IPV6, VLAN, QINQ = 0x0800, 0x0806, 0x86DD, 0x8100, 0x88A8
BROADCAST = "ff:ff:ff:ff:ff:ff"
TCP, UDP, ICMP, ICMPV6 = 6, 17, 1, 58
NO_OFFLOAD = bytes(10)
"""The virtio-net header of a frame that is whole."""
_SET_DEVICE, _TAP, _NO_HEADER, _VIRTIO = 0x400454CA, 0x0002, 0x1000, 0x4000


def mac(text: str) -> bytes:
    """Six bytes."""
    return bytes.fromhex(text.replace(":", ""))


def ip(text: str) -> bytes:
    """Four or sixteen."""
    return socket.inet_pton(socket.AF_INET6 if ":" in text else socket.AF_INET, text)


def ether(source: str, kind: int, payload: bytes, *, to: str = BROADCAST) -> bytes:
    """A frame."""
    return mac(to) + mac(source) + struct.pack("!H", kind) + payload


def tagged(frame: bytes, *tags: int, number: int = 5) -> bytes:
    """The frame with VLAN tags of these kinds, the outer one first."""
    return frame[:12] + b"".join(struct.pack("!HH", kind, number) for kind in tags) + frame[12:]


def arp(
    source: str, sender: str, target: str, *, op: int = 1, sender_mac: str = "", head: str = "000108000604"
) -> bytes:
    """What `ether` is to carry: the sender's hardware address is `source`, unless another one is said."""
    return bytes.fromhex(head) + struct.pack("!H", op) + mac(sender_mac or source) + ip(sender) + bytes(6) + ip(target)


def checksum(data: bytes) -> int:
    """The internet's."""
    total = sum(struct.unpack(f"!{(len(data) + 1) // 2}H", data + bytes(len(data) % 2)))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def ipv4(source: str, target: str, protocol: int, payload: bytes, *, options: bytes = b"", fragment: int = 0) -> bytes:
    """A packet; `fragment` is that field with its flags."""
    length_words = 5 + len(options) // 4
    head = struct.pack(
        "!BBHHHBBH", 0x40 | length_words, 0, 4 * length_words + len(payload), 7, fragment, 64, protocol, 0
    )
    head += ip(source) + ip(target) + options
    return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + payload


def ipv6(source: str, target: str, protocol: int, payload: bytes, *, hops: int = 255) -> bytes:
    """A packet, whose `payload` may begin with extension headers."""
    return struct.pack("!IHBB", 6 << 28, len(payload), protocol, hops) + ip(source) + ip(target) + payload


def udp(source: str, target: str, ports: tuple[int, int], data: bytes = b"data") -> bytes:
    """A datagram."""
    head = struct.pack("!HHHH", *ports, 8 + len(data), 0)
    return _summed(source, target, UDP, payload=head + data, at=6)


def tcp(source: str, target: str, data: bytes = b"") -> bytes:
    """A segment without a connection."""
    return _summed(
        source, target, TCP, payload=struct.pack("!HHIIBBHHH", 99, 80, 1, 0, 0x50, 0x10, 9, 0, 0) + data, at=16
    )


def icmpv6(source: str, target: str, kind: int, body: bytes = bytes(4)) -> bytes:
    """A message."""
    return _summed(source, target, ICMPV6, payload=bytes((kind, 0, 0, 0)) + body, at=2)


def icmp(kind: int) -> bytes:
    """A message of the old protocol."""
    made = bytes((kind, 0, 0, 0, 0, 1, 0, 1))
    return made[:2] + struct.pack("!H", checksum(made)) + made[4:]


def option(kind: int, hardware: str) -> bytes:
    """A link-layer address in neighbour discovery."""
    return bytes((kind, 1)) + mac(hardware)


def _summed(source: str, target: str, protocol: int, *, payload: bytes, at: int) -> bytes:
    pseudo = ip(source) + ip(target) + struct.pack("!II", len(payload), protocol)
    return payload[:at] + struct.pack("!H", checksum(pseudo + payload)) + payload[at + 2 :]


@contextmanager
def guest_end(tap: str) -> Iterator[int]:
    """A descriptor that takes frames behind a virtio-net header as a hypervisor writes them; in the tap's netns."""
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.ioctl(fd, _SET_DEVICE, struct.pack("16sH22x", tap.encode(), _TAP | _NO_HEADER | _VIRTIO))
        yield fd
    finally:
        os.close(fd)


def far_end(device: str) -> socket.socket:
    """Sees each frame that comes to the device, which is in the current netns."""
    made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.htons(3))
    made.bind((device, 3))
    made.settimeout(20)
    return made
