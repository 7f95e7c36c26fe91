# SPDX-License-Identifier: Apache-2.0
"""nf_tables' chains, sets and rules: bytes of the messages that make them, and of the expressions in rules. See
linux/netfilter/nf_tables.h.

Used by `net` where a table is made. It knows no table of ours.
"""

import struct
from collections.abc import Sequence

from stage1.linux.netlink import CREATE_OR_KEEP, attribute
from stage1.linux.nft import Message, nested, string, u32

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

_NEW_CHAIN, _NEW_RULE, _NEW_SET = 3, 6, 9
_APPEND = 0x800
_KIND_BITS = 6
_KEY_BYTES = {IPV4_KEY: 4, IPV6_KEY: 16, MAC_KEY: 6}
_EXPIRE, _DYNAMIC = 0x10, 0x20
_SCRATCH = 23
"""A register that no caller uses."""
_PACKETS_OVER = 1


def chain(table: str, name: str, *, hook: int, priority: int) -> Message:
    """A chain that the kernel calls at `hook`, and that accepts by default."""
    place = nested(4, u32(1, hook), u32(2, priority))
    return (
        _NEW_CHAIN,
        CREATE_OR_KEEP,
        string(1, table) + string(3, name) + place + u32(5, ACCEPT) + string(7, "filter"),
    )


def lookup_table(table: str, name: str, *, key: Sequence[int], number: int, expires_s: int = 0) -> Message:
    """A set, whose number no other one in these messages has; its keys are made of these, in this order. If it expires,
    elements are added by rules, and removed so long after their last update.
    """
    kind = length = 0
    for one in key:
        kind, length = kind << _KIND_BITS | one, length + -length % 4 + _KEY_BYTES[one]
    body = string(1, table) + string(2, name) + u32(4, kind) + u32(5, length) + u32(10, number)
    if expires_s:
        body += u32(3, _EXPIRE | _DYNAMIC) + nested(9, u32(1, 1 << 16))
        body += attribute(11, struct.pack(">Q", 1000 * expires_s))
    return _NEW_SET, CREATE_OR_KEEP, body


def rule(table: str, chain: str, *expressions: bytes) -> Message:
    """A rule at the end of the chain."""
    body = string(1, table) + string(2, chain) + nested(4, *expressions)
    return _NEW_RULE, CREATE_OR_KEEP | _APPEND, body


def meta(key: int, value: bytes, *, is_not: bool = False) -> bytes:
    """Continue if this property of the packet has this value, or another one."""
    load = _expression("meta", u32(1, _SCRATCH), u32(2, key))
    return load + _expression("cmp", u32(1, _SCRATCH), u32(2, is_not), nested(3, attribute(1, value)))


def payload(header: int, *, offset: int, length: int, register: int) -> bytes:
    """Load bytes of the packet. Registers are words of 4 bytes, numbered from 8 to 23."""
    numbers = ((1, register), (2, header), (3, offset), (4, length))
    return _expression("payload", *(u32(kind, value) for kind, value in numbers))


def route(key: int, *, register: int) -> bytes:
    """Load the address to which the packet goes next: a router's, or that of its destination on this link."""
    return _expression("rt", u32(1, register), u32(2, key))


def matches(name: str, *, register: int, is_not: bool = False) -> bytes:
    """Continue if what begins at this register is in the set, or is not in it."""
    return _expression("lookup", string(1, name), u32(2, register), u32(5, is_not))


def change_set(name: str, operation: int, *, register: int, excess: bytes = b"") -> bytes:
    """ADD the element that begins at this register, or UPDATE its time; continue only in `excess` of its own limit."""
    body = [string(1, name), u32(3, operation), u32(4, register)]
    return _expression("dynset", *body, nested(7, excess) if excess else b"")


def limit(*, per_s: int, burst: int) -> bytes:
    """The condition of `change_set` and `over` that holds for packets in excess of this."""
    return string(1, "limit") + nested(
        2,
        attribute(1, struct.pack(">Q", per_s)),
        attribute(2, struct.pack(">Q", 1)),
        u32(3, burst),
        u32(4, 0),
        u32(5, _PACKETS_OVER),
    )


def over(excess: bytes) -> bytes:
    """Continue with packets in excess of a limit."""
    return nested(1, excess)


def verdict(code: int) -> bytes:
    """DROP or ACCEPT."""
    return _expression("immediate", u32(1, 0), nested(2, nested(2, u32(1, code))))


def _expression(name: str, *parts: bytes) -> bytes:
    return nested(1, string(1, name), nested(2, *parts))
