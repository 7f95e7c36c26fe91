# SPDX-License-Identifier: Apache-2.0
"""nf_tables, thin: bytes of its messages and expressions, and a socket that commits several of them as one change.
See linux/netfilter/nf_tables.h.

Used by `net`: hosts need not have the program nft. It knows no table of ours: what is in the messages is the caller's.
"""

import _socket
import struct

from stage1.linux.libc import Guard, failure
from stage1.linux.netlink import ACK, CREATE, CREATE_OR_KEEP, HEADER, REQUEST, Netlink, attribute, attributes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

Message = tuple[int, int, bytes]
"""Kind, flags beside those that each has, and attributes."""

INET = 1
"""The family of tables that see IPv4 and IPv6."""
LOCAL_IN, FORWARD = 1, 2
"""Hooks of that family."""
DROP, ACCEPT = 0, 1
IPV4, IPV6 = 2, 10
"""Values of `FAMILY`."""
FAMILY, OUTPUT_TYPE = 15, 9
"""Keys of `meta`: the packet's family, a byte, and the hardware type of the device by which it leaves, two bytes."""
LINK, NETWORK = 0, 1
"""Headers of `payload`."""
NEXT_HOP4, NEXT_HOP6 = 1, 2
"""Keys of `route`."""
IPV4_KEY, IPV6_KEY, MAC_KEY = 7, 8, 9
"""Parts of the keys of sets: numbers by which the program nft knows how to show them."""
ADD, UPDATE = 0, 1

_NETFILTER = 12
_SUBSYSTEM = 10
_BEGIN, _END = 16, 17
_NEW_TABLE, _NEW_CHAIN, _NEW_RULE, _NEW_SET, _NEW_ELEMENT, _DELETE_ELEMENT = 0, 3, 6, 9, 12, 14
_DELETE_TABLE, _GET_ELEMENTS, _GET_GENERATION = 2, 13, 16
_APPEND = 0x800
_NESTED = 0x8000
_PREFIX = struct.Struct("=BBH")
_KIND_BITS = 6
_KEY_BYTES = {IPV4_KEY: 4, IPV6_KEY: 16, MAC_KEY: 6}
_EXPIRE, _DYNAMIC = 0x10, 0x20
_SCRATCH = 23
"""A register that no caller uses."""
_PACKETS_OVER = 1


def nested(kind: int, *parts: bytes) -> bytes:
    """An attribute that contains these."""
    return attribute(kind | _NESTED, b"".join(parts))


def table(name: str) -> Message:
    """A table, which must not exist yet."""
    return _NEW_TABLE, CREATE, _text(1, name)


def table_removal(name: str) -> Message:
    """A table, with all that is in it, is removed."""
    return _DELETE_TABLE, 0, _text(1, name)


def chain(table: str, name: str, *, hook: int, priority: int) -> Message:
    """A chain that the kernel calls at `hook`, and that accepts by default."""
    place = nested(4, _number(1, hook), _number(2, priority))
    return (
        _NEW_CHAIN,
        CREATE_OR_KEEP,
        _text(1, table) + _text(3, name) + place + _number(5, ACCEPT) + _text(7, "filter"),
    )


def lookup_table(table: str, name: str, *, key: "Sequence[int]", number: int, expires_s: int = 0) -> Message:
    """A set, whose number no other one in these messages has; its keys are made of these, in this order. If it expires,
    elements are added by rules, and removed so long after their last update.
    """
    kind = length = 0
    for one in key:
        kind, length = kind << _KIND_BITS | one, length + -length % 4 + _KEY_BYTES[one]
    body = _text(1, table) + _text(2, name) + _number(4, kind) + _number(5, length) + _number(10, number)
    if expires_s:
        body += _number(3, _EXPIRE | _DYNAMIC) + nested(9, _number(1, 1 << 16))
        body += attribute(11, struct.pack(">Q", 1000 * expires_s))
    return _NEW_SET, CREATE_OR_KEEP, body


def rule(table: str, chain: str, *expressions: bytes) -> Message:
    """A rule at the end of the chain."""
    body = _text(1, table) + _text(2, chain) + nested(4, *expressions)
    return _NEW_RULE, CREATE_OR_KEEP | _APPEND, body


def elements(table: str, name: str, keys: "Sequence[bytes]", *, is_removal: bool = False) -> Message:
    """Keys that are added to a set, where they are kept if they are in it, or removed."""
    listed = nested(3, *(nested(1, nested(1, attribute(1, key))) for key in keys))
    kind, flags = (_DELETE_ELEMENT, 0) if is_removal else (_NEW_ELEMENT, CREATE_OR_KEEP)
    return kind, flags, _text(1, table) + _text(2, name) + listed


def meta(key: int, value: bytes, *, is_not: bool = False) -> bytes:
    """Continue if this property of the packet has this value, or another one."""
    load = _expression("meta", _number(1, _SCRATCH), _number(2, key))
    return load + _expression("cmp", _number(1, _SCRATCH), _number(2, is_not), nested(3, attribute(1, value)))


def payload(header: int, *, offset: int, length: int, register: int) -> bytes:
    """Load bytes of the packet. Registers are words of 4 bytes, numbered from 8 to 23."""
    numbers = ((1, register), (2, header), (3, offset), (4, length))
    return _expression("payload", *(_number(kind, value) for kind, value in numbers))


def route(key: int, *, register: int) -> bytes:
    """Load the address to which the packet goes next: a router's, or that of its destination on this link."""
    return _expression("rt", _number(1, register), _number(2, key))


def matches(name: str, *, register: int, is_not: bool = False) -> bytes:
    """Continue if what begins at this register is in the set, or is not in it."""
    return _expression("lookup", _text(1, name), _number(2, register), _number(5, is_not))


def change_set(name: str, operation: int, *, register: int, excess: bytes = b"") -> bytes:
    """ADD the element that begins at this register, or UPDATE its time; continue only in `excess` of its own limit."""
    body = [_text(1, name), _number(3, operation), _number(4, register)]
    return _expression("dynset", *body, nested(7, excess) if excess else b"")


def limit(*, per_s: int, burst: int) -> bytes:
    """The condition of `change_set` and `over` that holds for packets in excess of this."""
    return _text(1, "limit") + nested(
        2,
        attribute(1, struct.pack(">Q", per_s)),
        attribute(2, struct.pack(">Q", 1)),
        _number(3, burst),
        _number(4, 0),
        _number(5, _PACKETS_OVER),
    )


def over(excess: bytes) -> bytes:
    """Continue with packets in excess of a limit."""
    return nested(1, excess)


def verdict(code: int) -> bytes:
    """DROP or ACCEPT."""
    return _expression("immediate", _number(1, 0), nested(2, nested(2, _number(1, code))))


class Nftables(Netlink):
    """A socket of nf_tables in the netns of the calling thread. Close it, or use it in a `with`."""

    PROTOCOL = _NETFILTER

    def __enter__(self) -> "Nftables":
        return self

    def commit(self, messages: "Sequence[Message]", *, what: str, generation: int = 0) -> None:
        """Make all changes or none; none with ERESTART if anybody has changed anything since this `generation`.

        Raises KernelError about `what`, with the first error; a Missing where a table or an element is not there.
        """
        last = len(messages)
        since = _number(1, generation) if generation else b""
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
        body = _PREFIX.pack(INET, 0, 0) + _text(1, table) + _text(2, name)
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

    def _answers(self, what: str) -> "list[tuple[int, int]]":
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


def _expression(name: str, *parts: bytes) -> bytes:
    return nested(1, _text(1, name), nested(2, *parts))


def _text(kind: int, text: str) -> bytes:
    return attribute(kind, text.encode() + b"\0")


def _number(kind: int, value: int) -> bytes:
    return attribute(kind, struct.pack(">I", value & 0xFFFFFFFF))
