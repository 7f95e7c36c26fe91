# SPDX-License-Identifier: Apache-2.0
"""Programs for the kernel's classic BPF machine, as the `bpf` classifier of tc takes them. See socket(7), bpf(4).

Pure: used by net. A program is put together from blocks, which run one after the other; a block either goes on to the
next one or ends the program. Offsets count from the first byte of the Ethernet header. Reading past the end of the
packet ends the program as `REFUSE` does.
"""

import struct

Block = bytes
"""Instructions as the kernel takes them."""

BYTE, HALF, WORD = 1, 2, 4
VLAN_TAG_PRESENT = 0xFFFFF000 + 48
"""A pseudo-offset: whether the packet has a VLAN tag, which the kernel has removed from it."""

_STEP = struct.Struct("=HBBI")
"""Operation, how many instructions to leave out when a comparison holds and when it does not, and the constant."""
_TWO_STEPS = struct.Struct("=HBBIHBBI")
_SIZES = {BYTE: 0x10, HALF: 0x08, WORD: 0x00}
_LOAD, _LOAD_FROM_X, _HEADER_LENGTH = 0x20, 0x40, 0xB1
_AND, _JUMP, _IF_EQUAL, _IF_MORE, _IF_AT_LEAST, _RETURN = 0x54, 0x05, 0x15, 0x25, 0x35, 0x06
_FAR = 255
"""Instructions that a comparison can leave out; more takes a jump of its own."""

ACCEPT: Block = _STEP.pack(_RETURN, 0, 0, 0xFFFFFFFF)
"""End: the classifier's action is carried out."""
REFUSE: Block = _STEP.pack(_RETURN, 0, 0, 0)
"""End: as if there were no such filter."""
DROP: Block = _STEP.pack(_RETURN, 0, 0, 2)
"""End, of a program whose value is an action itself: the packet is dropped (TC_ACT_SHOT)."""


def steps(block: Block) -> int:
    """The number of instructions."""
    return len(block) // _STEP.size


def load(at: int, size: int = BYTE) -> Block:
    """Take the number at the offset `at`; the blocks that follow compare it."""
    return _STEP.pack(_LOAD | _SIZES[size], 0, 0, at)


def load_behind(at: int, size: int = BYTE) -> Block:
    """Like `load`, but counted from the end of the IPv4 header, whose length `find_end` has read."""
    return _STEP.pack(_LOAD_FROM_X | _SIZES[size], 0, 0, at)


def find_end(at: int) -> Block:
    """Read the length of the IPv4 header that begins at `at`, for `load_behind`."""
    return _STEP.pack(_HEADER_LENGTH, 0, 0, at)


def mask(bits: int) -> Block:
    """Keep these bits of the number."""
    return _STEP.pack(_AND, 0, 0, bits)


def case(number: int, then: Block) -> Block:
    """Run `then`, which must end the program, if it is `number`."""
    count = steps(then)
    if count <= _FAR:
        return _STEP.pack(_IF_EQUAL, 0, count, number) + then
    return _STEP.pack(_IF_EQUAL, 1, 0, number) + _STEP.pack(_JUMP, 0, 0, count) + then


def need(*numbers: int) -> Block:
    """Refuse the packet unless it is one of these."""
    last = len(numbers)
    return b"".join([_STEP.pack(_IF_EQUAL, last - at, 0, number) for at, number in enumerate(numbers)]) + REFUSE


def need_between(least: int, most: int) -> Block:
    """Refuse the packet unless it is one of these or between them."""
    return _STEP.pack(_IF_AT_LEAST, 1, 0, least) + REFUSE + _STEP.pack(_IF_MORE, 0, 1, most) + REFUSE


def refuse(*numbers: int) -> Block:
    """Refuse the packet when it is one of these."""
    return b"".join([_STEP.pack(_IF_EQUAL, 0, 1, number) + REFUSE for number in numbers])


def need_bytes(*choices: tuple[int, bytes]) -> Block:
    """Refuse the packet unless one of these (offset, bytes) is in it."""
    block = REFUSE
    for at, expected in reversed(choices):
        block = _if_bytes(at, expected, skip=steps(block)) + block
    return block


def case_bytes(at: int, expected: bytes, then: Block) -> Block:
    """Run `then`, which must end the program, if these bytes are at the offset `at`."""
    return _if_bytes(at, expected, skip=1) + _STEP.pack(_JUMP, 0, 0, steps(then)) + then


def _if_bytes(at: int, expected: bytes, *, skip: int) -> Block:
    """Leave out the `skip` instructions that follow when these bytes are there."""
    block, end = _STEP.pack(_JUMP, 0, 0, skip), len(expected)
    while end:
        size = WORD if end % WORD == 0 else HALF if end % HALF == 0 else BYTE
        end -= size
        number = int.from_bytes(expected[end : end + size], "big")
        block = (
            _TWO_STEPS.pack(_LOAD | _SIZES[size], 0, 0, at + end, _IF_EQUAL, 0, len(block) // _STEP.size, number)
            + block
        )
    return block
