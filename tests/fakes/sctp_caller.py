# SPDX-License-Identifier: Apache-2.0
"""Calls an SCTP server from a kernel that has no SCTP: the four packets of an association's beginning, by a raw socket.

Used by tests of host ports. Not for a kernel with SCTP, which would answer for itself.
"""

import os
import random
import socket
import struct
import time

INIT, INIT_ACK, ABORT, COOKIE_ECHO, COOKIE_ACK = 1, 2, 6, 10, 11
_STATE_COOKIE = 7
_AGAIN_S, _LIMIT_S = 2.0, 60.0
_IPPROTO_SCTP = 132


def call(host: str, port: int) -> None:
    """Make an association and abort it. Raises TimeoutError when the server does not take part, or ConnectionError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_RAW, _IPPROTO_SCTP) as raw:
        raw.connect((host, 0))
        raw.settimeout(_AGAIN_S)
        caller = _Caller(raw, port)
        tsn, streams = os.urandom(4), struct.pack("!IHH", 1 << 16, 1, 1)
        answer = caller.ask(INIT, caller.tag + streams + tsn, expected=INIT_ACK, tag=bytes(4))
        peer_tag = answer[:4]
        caller.ask(COOKIE_ECHO, _cookie(answer), expected=COOKIE_ACK, tag=peer_tag)
        caller.send(ABORT, b"", tag=peer_tag)


class _Caller:
    """One end of an association; `tag` is what the other end must name in each packet."""

    def __init__(self, raw: socket.socket, port: int) -> None:
        self._raw, self._ports = raw, (random.randint(32768, 60000), port)
        self.tag = os.urandom(4)

    def send(self, kind: int, body: bytes, *, tag: bytes) -> None:
        chunk = struct.pack("!BBH", kind, 0, 4 + len(body)) + body + bytes(-len(body) % 4)
        head = struct.pack("!HH", *self._ports) + tag
        self._raw.send(head + struct.pack("<I", _crc32c(head + bytes(4) + chunk)) + chunk)

    def ask(self, kind: int, body: bytes, *, expected: int, tag: bytes) -> bytes:
        """The body of the `wanted` chunk that answers this one, sent again as often as needed."""
        until = time.monotonic() + _LIMIT_S
        while time.monotonic() < until:
            self.send(kind, body, tag=tag)
            try:
                while (got := self._receive()) is None or got[0] != expected:
                    pass
            except TimeoutError:
                continue
            return got[1]
        raise TimeoutError(f"no SCTP chunk {expected} came from port {self._ports[1]} within {_LIMIT_S:g} s")

    def _receive(self) -> tuple[int, bytes] | None:
        """Kind and body of the first chunk of a packet; None when it is not for this association."""
        packet = self._raw.recv(65536)
        if self._raw.family == socket.AF_INET:
            packet = packet[(packet[0] & 15) * 4 :]
        if struct.unpack("!HH", packet[:4]) != self._ports[::-1] or packet[4:8] != self.tag:
            return None
        if struct.pack("<I", _crc32c(packet[:8] + bytes(4) + packet[12:])) != packet[8:12]:
            raise ConnectionError("an SCTP packet came with a wrong checksum")
        kind, _, length = struct.unpack("!BBH", packet[12:16])
        if kind == ABORT:
            raise ConnectionRefusedError("the SCTP server aborted the association")
        return kind, packet[16 : 12 + length]


def _cookie(init_ack: bytes) -> bytes:
    parameters = init_ack[16:]
    while len(parameters) >= 4:
        kind, length = struct.unpack("!HH", parameters[:4])
        if kind == _STATE_COOKIE:
            return parameters[4:length]
        parameters = parameters[max(length + -length % 4, 4) :]
    raise ConnectionError("the SCTP server's answer has no cookie")


def _crc32c(data: bytes) -> int:
    value = 0xFFFFFFFF
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = (value >> 1) ^ (0x82F63B78 if value & 1 else 0)
    return value ^ 0xFFFFFFFF
