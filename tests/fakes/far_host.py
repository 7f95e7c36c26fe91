# SPDX-License-Identifier: Apache-2.0
"""Another host, beyond a router that is ours: a netns with a cable to the calling thread's netns.

Nothing on the cable, whose MTU is that of the pods, is left to hardware: all that arrives there was cut to the MTU and
has a real checksum, which the receiver verifies and counts. Used by tests that ask whether what leaves a pod is right
on a wire.
"""

import ctypes
import fcntl
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager

from stage1.linux import namespace, process

NEAR_V4, FAR_V4, NEAR_V6, FAR_V6 = "192.0.2.1", "192.0.2.2", "2001:db8::1", "2001:db8::2"
_SIOCETHTOOL, _SET_TX_CHECKSUM, _SET_GRO = 0x8946, 0x17, 0x2C
_LIMIT_S = 120


class FarHost:
    """`path` keeps its netns."""

    def __init__(self, path: str) -> None:
        self.path = path

    def run(self, *argv: str) -> str:
        """What a program says that runs there; it must succeed."""
        with namespace.inside_net(self.path):
            return run_here(*argv)

    def send_with_a_wrong_checksum(self, address: str, port: int) -> None:
        """One UDP datagram over IPv4 that its receiver must refuse and count."""
        with namespace.inside_net(self.path), socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_UDP) as raw:
            raw.sendto(struct.pack("!4H4s", port, port, 12, 0xBAD, b"data"), (address, 0))


def run_here(*argv: str) -> str:
    """What a program says that runs in the calling thread's netns; it must succeed."""
    ended = process.run(argv, timeout_s=_LIMIT_S)
    assert ended.code == 0, (argv, ended.stdout, ended.stderr)
    return ended.stdout.decode()


@contextmanager
def far_host() -> Iterator[FarHost]:
    """It is there, with a route to it and a route back, until the block ends."""
    name = f"t-far-{os.urandom(4).hex()}"
    namespace.make_net(f"/run/netns/{name}")
    far = FarHost(f"/run/netns/{name}")
    try:
        run_here("ip", "link", "add", "wire", "type", "veth", "peer", "name", "wire", "netns", name)
        _plug(NEAR_V4, NEAR_V6)
        with namespace.inside_net(far.path):
            _plug(FAR_V4, FAR_V6)
            run_here("ip", "route", "add", "default", "via", NEAR_V4)
            run_here("ip", "-6", "route", "add", "default", "via", NEAR_V6)
        yield far
    finally:
        namespace.remove_net(far.path)


def _plug(v4: str, v6: str) -> None:
    for command in (f"addr add {v4}/24 dev wire", f"addr add {v6}/64 dev wire nodad", "link set wire mtu 1400 up"):
        run_here("ip", *command.split())
    _set("wire", _SET_TX_CHECKSUM, 0)
    _set("wire", _SET_GRO, 0)


def _set(device: str, what: int, value: int) -> None:
    """As `ethtool -K` does."""
    given = ctypes.create_string_buffer(struct.pack("II", what, value))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, _SIOCETHTOOL, struct.pack("16sP8x", device.encode(), ctypes.addressof(given)))
