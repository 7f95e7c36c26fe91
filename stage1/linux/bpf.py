# SPDX-License-Identifier: Apache-2.0
"""Programs for the kernel's classic BPF machine, as the `bpf` classifier of tc takes them. See socket(7), bpf(4).

Pure: used by net. A program is put together from blocks, which run one after the other; a block either goes on to the
next one or ends the program. Offsets count from the first byte of the Ethernet header. Reading past the end of the
packet ends the program as `REFUSE` does.
"""

import struct

Instruction = tuple[int, int, int, int]
"""Operation, distance of the jump when the comparison holds, when it does not, and the constant."""
Block = tuple[Instruction, ...]

BYTE, HALF, WORD = 1, 2, 4
VLAN_TAG_PRESENT = -0x1000 + 48
"""In place of an offset: whether the packet has a VLAN tag, which the kernel has taken out of it."""

_FORM = struct.Struct("=HBBI")
_SIZES = {BYTE: 0x10, HALF: 0x08, WORD: 0x00}
_LOAD, _LOAD_FROM_X, _HEADER_LENGTH = 0x20, 0x40, 0xB1
_AND, _JUMP, _IF_EQUAL, _IF_MORE, _IF_AT_LEAST, _RETURN = 0x54, 0x05, 0x15, 0x25, 0x35, 0x06

ACCEPT: Block = ((_RETURN, 0, 0, 0xFFFFFFFF),)
"""End: the classifier's action is carried out."""
REFUSE: Block = ((_RETURN, 0, 0, 0),)
"""End: as if there were no such filter."""
DROP: Block = ((_RETURN, 0, 0, 2),)
"""End, of a program whose value is an action itself: the packet is dropped (TC_ACT_SHOT)."""


def load(at: int, size: int = BYTE) -> Block:
    """Take the number at the offset `at`; the blocks that follow compare it."""
    return ((_LOAD | _SIZES[size], 0, 0, at & 0xFFFFFFFF),)


def load_behind(at: int, size: int = BYTE) -> Block:
    """As `load`, counted from where the IPv4 header ends, of which `find_end` has read the length."""
    return ((_LOAD_FROM_X | _SIZES[size], 0, 0, at),)


def find_end(at: int) -> Block:
    """Read the length of the IPv4 header that begins at `at`, for `load_behind`."""
    return ((_HEADER_LENGTH, 0, 0, at),)


def mask(bits: int) -> Block:
    """Keep these bits of the number."""
    return ((_AND, 0, 0, bits),)


def case(number: int, then: Block) -> Block:
    """When it is `number`, `then` runs, which must end the program."""
    return ((_IF_EQUAL, 1, 0, number), (_JUMP, 0, 0, len(then)), *then)


def need(number: int) -> Block:
    """Refuse the packet unless it is `number`."""
    return ((_IF_EQUAL, 1, 0, number), *REFUSE)


def need_between(least: int, most: int) -> Block:
    """Refuse the packet unless it is one of these or between them."""
    return ((_IF_AT_LEAST, 1, 0, least), *REFUSE, (_IF_MORE, 0, 1, most), *REFUSE)


def need_one(*numbers: int) -> Block:
    """Refuse the packet unless it is one of these."""
    block = REFUSE
    for number in reversed(numbers):
        block = ((_IF_EQUAL, 0, 1, number), (_JUMP, 0, 0, len(block)), *block)
    return block


def refuse(*numbers: int) -> Block:
    """Refuse the packet when it is one of these."""
    return tuple(step for number in numbers for step in ((_IF_EQUAL, 0, 1, number), *REFUSE))


def need_bytes(*choices: tuple[int, bytes]) -> Block:
    """Refuse the packet unless one of these (offset, bytes) is in it."""
    block = REFUSE
    for at, wanted in reversed(choices):
        block = _if_bytes(at, wanted, skip=len(block)) + block
    return block


def case_bytes(at: int, wanted: bytes, then: Block) -> Block:
    """When these bytes are at the offset `at`, `then` runs, which must end the program."""
    return (*_if_bytes(at, wanted, skip=1), (_JUMP, 0, 0, len(then)), *then)


def _if_bytes(at: int, wanted: bytes, *, skip: int) -> Block:
    """Leave out the `skip` instructions that follow when these bytes are there."""
    block: Block = ((_JUMP, 0, 0, skip),)
    end = len(wanted)
    while end:
        size = WORD if end % WORD == 0 else HALF if end % HALF == 0 else BYTE
        end -= size
        number = int.from_bytes(wanted[end : end + size], "big")
        block = (*load(at + end, size), (_IF_EQUAL, 0, len(block), number), *block)
    return block


def pack(program: Block) -> bytes:
    """As the kernel takes it."""
    return b"".join(_FORM.pack(*step) for step in program)
