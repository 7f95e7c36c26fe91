# SPDX-License-Identifier: Apache-2.0
"""Messages of rtnetlink that change a pod's netns: devices set up, given addresses, and joined so that each sends out
what the other receives.

Pure: called by tap_links. Layouts: linux/if_link.h, if_addr.h, pkt_sched.h, pkt_cls.h, tc_act/tc_mirred.h.
"""

import _socket
import struct

from stage1.errors import NetworkFailed
from stage1.linux import bpf
from stage1.linux.netlink import CREATE, attribute

Message = tuple[int, int, bytes]

_NEW_LINK, _NEW_ADDRESS, _NEW_QDISC, _NEW_FILTER = 16, 20, 36, 44
_LINK, _ADDRESS, _OF = struct.Struct("=BxHiII"), struct.Struct("=BBBBI"), struct.Struct("=BxxxiIII")
_NUMBER = struct.Struct("=I")
_UP = 1
_MTU, _AF_SPEC, _ADDR_GEN_MODE, _GENERATES_NONE = 4, 26, 8, b"\1"
_ADDRESS_ITSELF, _LOCAL, _NO_DAD = 1, 2, 2
_INGRESS, _INGRESS_PARENT = 0xFFFF0000, 0xFFFFFFF1
_ALL_PROTOCOLS = 0x0300
"""ETH_P_ALL as it goes over the wire; the priority is above it."""
_FIRST, _LAST = 1 << 16, 2 << 16
"""Priorities: of the frames that may pass, and of all that are left."""
_KIND, _OPTIONS = 1, 2
_U32_SELECTOR, _U32_ACTIONS = 5, 7
_BPF_ACTIONS, _BPF_LENGTH, _BPF_PROGRAM, _BPF_FLAGS = 1, 4, 5, 8
_VALUE_IS_ACTION = 1
_EVERYTHING = struct.pack("=BBBxHHhhI", 1, 0, 1, 0, 0, 0, 0, 0) + struct.pack("=IIii", 0, 0, 0, 0)
"""A selector that is final, with one key that every packet has: no bit of its first word is looked at."""
_MIRRED_PARMS, _STOLEN, _REDIRECT = 2, 4, 1


def up(index: int, *, mtu: int = 0, is_mute: bool = False) -> Message:
    """Device number `index` is set up, with `mtu` bytes unless that is 0. One that is mute makes no IPv6 address of its
    own, with which the netns would talk.
    """
    more = attribute(_MTU, _NUMBER.pack(mtu)) if mtu else b""
    if is_mute:
        more += attribute(_AF_SPEC, attribute(_socket.AF_INET6, attribute(_ADDR_GEN_MODE, _GENERATES_NONE)))
    return _NEW_LINK, 0, _LINK.pack(0, 0, index, _UP, _UP) + more


def down(index: int) -> Message:
    """Device number `index` is set down."""
    return _NEW_LINK, 0, _LINK.pack(0, 0, index, 0, _UP)


def address(index: int, text: str) -> Message:
    """Device number `index` has the address `text` (with prefix length), which is not probed for duplicates.

    Raises NetworkFailed when `text`, which a plugin may have written, is none.
    """
    host, _, length = text.partition("/")
    family = _socket.AF_INET6 if ":" in host else _socket.AF_INET
    try:
        packed = _socket.inet_pton(family, host)
        body = _ADDRESS.pack(family, int(length or 8 * len(packed)), _NO_DAD if ":" in host else 0, 0, index)
    except (OSError, ValueError, struct.error):
        raise NetworkFailed(
            f"{text!r} is not an IP address with prefix length; correct the plugin that returned it"
        ) from None
    return _NEW_ADDRESS, CREATE, body + attribute(_LOCAL, packed) + attribute(_ADDRESS_ITSELF, packed)


def ingress(index: int) -> Message:
    """The place where filters see what device number `index` receives."""
    return _NEW_QDISC, CREATE, _OF.pack(0, index, _INGRESS, _INGRESS_PARENT, 0) + attribute(_KIND, b"ingress\0")


def redirect(here: int, there: int) -> Message:
    """All that device number `here` receives, which has an `ingress`, goes out of `there`."""
    options = attribute(_U32_SELECTOR, _EVERYTHING) + attribute(_U32_ACTIONS, _to(there))
    return _filter(here, b"u32", options=options, priority=_FIRST)


def admit(here: int, there: int, *, program: bpf.Block) -> Message:
    """Like `redirect`, but only for the packets that the `program` (linux.bpf) accepts."""
    options = _program(program) + attribute(_BPF_ACTIONS, _to(there))
    return _filter(here, b"bpf", options=options, priority=_FIRST)


def drop(here: int) -> Message:
    """Drop what device number `here` receives and no other filter has taken. It needs no action `drop`, which is a
    module of its own.
    """
    options = _program(bpf.DROP) + attribute(_BPF_FLAGS, _NUMBER.pack(_VALUE_IS_ACTION))
    return _filter(here, b"bpf", options=options, priority=_LAST)


def _to(there: int) -> bytes:
    """The only action: out of the device number `there`."""
    parameters = struct.pack("=IIiii", 0, 0, _STOLEN, 0, 0) + struct.pack("=iI", _REDIRECT, there)
    return attribute(1, attribute(_KIND, b"mirred\0") + attribute(_OPTIONS, attribute(_MIRRED_PARMS, parameters)))


def _program(block: bpf.Block) -> bytes:
    return attribute(_BPF_LENGTH, struct.pack("=H", bpf.steps(block))) + attribute(_BPF_PROGRAM, block)


def _filter(here: int, kind: bytes, *, options: bytes, priority: int) -> Message:
    body = _OF.pack(0, here, 0, _INGRESS, priority | _ALL_PROTOCOLS)
    return _NEW_FILTER, CREATE, body + attribute(_KIND, kind + b"\0") + attribute(_OPTIONS, options)
