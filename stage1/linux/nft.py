# SPDX-License-Identifier: Apache-2.0
"""nf_tables, thin: bytes of messages about tables and elements of sets, and a socket that commits several messages as
one change. See linux/netfilter/nf_tables.h; chains, sets and rules are in `nft_rules`.

Used by `net`: hosts need not have the program nft. It knows no table of ours: what is in the messages is the caller's.
"""

from __future__ import annotations

import _socket
import struct
from collections.abc import Sequence

from stage1.linux.libc import Guard, failure
from stage1.linux.netlink import ACK, CREATE, CREATE_OR_KEEP, HEADER, REQUEST, Netlink, attribute, attributes

Message = tuple[int, int, bytes]
"""Kind, flags beside those that each has, and attributes."""

INET = 1
"""The family of tables that see IPv4 and IPv6."""

_NETFILTER = 12
_SUBSYSTEM = 10
_BEGIN, _END = 16, 17
_NEW_TABLE, _NEW_ELEMENT, _DELETE_ELEMENT = 0, 12, 14
_DELETE_TABLE, _GET_ELEMENTS, _GET_GENERATION = 2, 13, 16
_NESTED = 0x8000
_PREFIX = struct.Struct("=BBH")


def nested(kind: int, *parts: bytes) -> bytes:
    """An attribute that contains these."""
    return attribute(kind | _NESTED, b"".join(parts))


def string(kind: int, text: str) -> bytes:
    """An attribute that is a text."""
    return attribute(kind, text.encode() + b"\0")


def u32(kind: int, value: int) -> bytes:
    """An attribute that is a number of 32 bits."""
    return attribute(kind, struct.pack(">I", value & 0xFFFFFFFF))


def table(name: str) -> Message:
    """A table, which must not exist yet."""
    return _NEW_TABLE, CREATE, string(1, name)


def table_removal(name: str) -> Message:
    """A table, with all that is in it, is removed."""
    return _DELETE_TABLE, 0, string(1, name)


def elements(table: str, name: str, keys: Sequence[bytes], *, is_removal: bool = False) -> Message:
    """Keys that are added to a set, where they are kept if they are in it, or removed."""
    listed = nested(3, *(nested(1, nested(1, attribute(1, key))) for key in keys))
    kind, flags = (_DELETE_ELEMENT, 0) if is_removal else (_NEW_ELEMENT, CREATE_OR_KEEP)
    return kind, flags, string(1, table) + string(2, name) + listed


class Nftables(Netlink):
    """A socket of nf_tables in the netns of the calling thread. Close it, or use it in a `with`."""

    PROTOCOL = _NETFILTER

    def __enter__(self) -> Nftables:
        return self

    def commit(self, messages: Sequence[Message], *, what: str, generation: int = 0) -> None:
        """Make all changes or none; none with ERESTART if anybody has changed anything since this `generation`.

        Raises KernelError about `what`, with the first error; a Missing where a table or an element is not there.
        """
        last = len(messages)
        since = u32(1, generation) if generation else b""
        packets = [_packet(_BEGIN, 0, _PREFIX.pack(0, 0, _socket.htons(_SUBSYSTEM)) + since, 0)]
        for number, (kind, flags, body) in enumerate(messages, 1):
            flags |= ACK if number == last else 0
            packets.append(_packet(_SUBSYSTEM << 8 | kind, flags, _PREFIX.pack(INET, 0, 0) + body, number))
        packets.append(_packet(_END, 0, _PREFIX.pack(0, 0, _socket.htons(_SUBSYSTEM)), last + 1))
        with Guard("netlink", what):
            self._socket.send(b"".join(packets))
        if failed := self._first_error(last, what):
            raise failure("nf_tables", failed, what)

    def generation(self, *, what: str) -> int:
        """A number that each change of this netns' rules increases, for `commit`."""
        with Guard("netlink", what):
            self._socket.send(_packet(_SUBSYSTEM << 8 | _GET_GENERATION, 0, _PREFIX.pack(0, 0, 0), 0))
        (answer,) = self._receive(what)
        return int.from_bytes(attributes(answer[1][_PREFIX.size :])[1], "big")

    def is_empty(self, table: str, name: str, *, what: str) -> bool:
        """Whether this set has no element. Raises KernelError about `what`; a Missing where it is not there."""
        body = _PREFIX.pack(INET, 0, 0) + string(1, table) + string(2, name)
        parts = [*self.dump(_SUBSYSTEM << 8 | _GET_ELEMENTS, body, what=what)]  # all, so that none is left to receive
        return not any(attributes(part[_PREFIX.size :]).get(3) for part in parts)

    def _first_error(self, last: int, what: str) -> int:
        """The first error number of all answers up to that to the last message. One for the whole change has the number
        of its beginning.
        """
        failed = 0
        while True:
            for number, error in self._answers(what):
                failed = failed or error
                if number == last or (number == 0 and error):
                    return failed

    def _answers(self, what: str) -> list[tuple[int, int]]:
        """Number of a message and error number, of each answer of one datagram."""
        with Guard("netlink", what):
            data = self._socket.recv(1 << 16)
        answers, at = [], 0
        while at + HEADER.size + 4 <= len(data):
            size, _, _, number, _ = HEADER.unpack_from(data, at)
            answers.append((number, -struct.unpack_from("=i", data, at + HEADER.size)[0]))
            at += max(HEADER.size, size + -size % 4)
        return answers


def _packet(kind: int, flags: int, body: bytes, number: int) -> bytes:
    return HEADER.pack(HEADER.size + len(body), kind, flags | REQUEST, number, 0) + body
