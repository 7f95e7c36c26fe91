# SPDX-License-Identifier: Apache-2.0
"""A bzImage that is not compressed: the kernel's real mode part, kernel/header.S, and the kernel as it lies in memory.

kvmtool loads only this format (Documentation/arch/x86/boot.rst), and to unpack the kernel was half of the boot. Called
by kernel/build.py. The file has each byte at its place in memory (from 1 MiB on), so that nothing is moved. Pure.
"""

import struct
from typing import NamedTuple

from lib.cache import BuildFailed

LOADED_AT = 1 << 20
"""Where loaders put what follows the real mode part."""
_SECTOR = 512
_SETUP_SECTS, _SYSSIZE, _MAGIC, _PAYLOAD, _PREFERRED, _INIT_SIZE = 0x1F1, 0x1F4, 0x202, 0x248, 0x258, 0x260
_PT_LOAD = 1
_UNIT = 16


class Segment(NamedTuple):
    """A piece of the kernel: its place in memory, what the file has of it, and its length in memory."""

    address: int
    data: bytes
    size: int


class Kernel(NamedTuple):
    """A kernel as ELF describes it; `entry` is a physical address."""

    entry: int
    segments: list[Segment]


def parse(elf: bytes) -> Kernel:
    """The loadable pieces of a 64-bit little-endian ELF file, lowest first. Raises BuildFailed."""
    if elf[:6] != b"\x7fELF\x02\x01":
        raise BuildFailed("vmlinux is no 64-bit little-endian ELF file")
    entry, headers = struct.unpack_from("<QQ", elf, 24)
    size, count = struct.unpack_from("<HH", elf, 54)
    segments = []
    for at in range(headers, headers + size * count, size):
        kind, _, offset, _, address, stored, length = struct.unpack_from("<IIQQQQQ", elf, at)
        if kind == _PT_LOAD:
            segments.append(Segment(address, elf[offset : offset + stored], length))
    return Kernel(entry, sorted(segments))


def image(packed: bytes, stub: bytes, kernel: Kernel) -> bytes:
    """The file: real mode part of the bzImage `packed`, the assembled header.S, the kernel. Raises BuildFailed."""
    if packed[_MAGIC : _MAGIC + 4] != b"HdrS":
        raise BuildFailed("the kernel's build gave no bzImage")
    setup = bytearray(packed[: (packed[_SETUP_SECTS] + 1) * _SECTOR])
    memory = bytearray(stub)
    for segment in kernel.segments:
        at = segment.address - LOADED_AT
        if at < len(memory):
            raise BuildFailed(f"the kernel's piece at {segment.address:#x} would overlap what is before it")
        memory += bytes(at - len(memory)) + segment.data
    memory += bytes(-len(memory) % _UNIT)
    end = max(segment.address + segment.size for segment in kernel.segments)
    struct.pack_into("<I", setup, _SYSSIZE, len(memory) // _UNIT)
    struct.pack_into("<II", setup, _PAYLOAD, 0, 0)  # nothing here is compressed
    struct.pack_into("<Q", setup, _PREFERRED, LOADED_AT)
    struct.pack_into("<I", setup, _INIT_SIZE, end - LOADED_AT)
    return bytes(setup) + bytes(memory)
