# SPDX-License-Identifier: Apache-2.0
"""What kind of kernel a file is: an ELF with a PVH note, one for multiboot, or a bzImage. Called before one is booted.

Pure: the file is read through a function, a few places of it. It may be anybody's, so nothing in it is believed.
"""

import struct
from typing import NamedTuple

from stage1.errors import BadRequest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Read = Callable[[int, int], bytes]

PVH, MULTIBOOT, BZIMAGE = "pvh", "multiboot", "bzImage"
MOST_BYTES = 256 << 20
"""Of one kernel."""
_MOST_SEGMENTS, _MOST_NOTES = 128, 1 << 16
_HEAD = 8192
"""Where a multiboot header has to be, and all that is looked at of a bzImage."""
_MACHINES = {3: "i386", 62: "x86_64"}
_OTHERS = {8: "MIPS", 20: "PowerPC", 21: "PowerPC", 22: "S/390", 40: "ARM", 183: "aarch64", 243: "RISC-V"}
_PT_NOTE, _PHYS32_ENTRY = 4, 18
_MULTIBOOT, _HAS_ADDRESSES, _THERE = 0x1BADB002, 1 << 16, 1 << 32
_USABLE = "clearpod boots an ELF with a PVH note, a multiboot kernel or a bzImage"


class _Elf(NamedTuple):
    is_64: bool
    machine: int
    segments_at: int
    segment_bytes: int
    segments: int


def kind(read: "Read", size: int, *, title: str) -> str:
    """PVH, MULTIBOOT or BZIMAGE. `read` gives so many bytes at an offset, or fewer at the file's end; `title` is what
    sentences call it. Raises BadRequest when it is no kernel that this host can boot, or too large.
    """
    if size > MOST_BYTES:
        raise BadRequest(f"{title} has {size} bytes, and a kernel may have {MOST_BYTES}; use a smaller one")
    head = read(0, _HEAD)
    if head[:4] == b"\x7fELF":
        elf = _elf(head, title)
        if _is_multiboot(head, elf):
            return MULTIBOOT
        if _has_pvh(read, elf):
            return _require_no_header(head, title)
        raise BadRequest(f"{title} is an ELF file without a PVH note and without a multiboot header; {_USABLE}")
    if head[0x202:0x206] == b"HdrS" and head[0x1FE:0x200] == b"\x55\xaa" and head[0x211] & 1:
        return BZIMAGE
    if _is_multiboot(head, None):
        return MULTIBOOT
    raise BadRequest(f"{title} is no kernel: {_guess(head)}; {_USABLE}")


def _require_no_header(head: bytes, title: str) -> str:
    """PVH. QEMU looks for a multiboot header first, and refuses a kernel of 64 bits with one that it can't use."""
    if any(_headers(head)):
        raise BadRequest(
            f"{title} has a PVH note and a multiboot header without addresses: the header counts, and can't load "
            "64 bits by it; build it with one of them, or with addresses in the header"
        )
    return PVH


def _guess(head: bytes) -> str:
    if not head:
        return "it is empty"
    if head[0x38:0x3C] == b"ARM\x64":
        return "it is for aarch64"
    if head[:2] == b"\x1f\x8b" or head[:4] in (b"\x28\xb5\x2f\xfd", b"\xfd7zX"):
        return "it is compressed"
    return f"it begins with {head[:8].hex()}"


def _elf(head: bytes, title: str) -> _Elf:
    if len(head) < 64 or head[4] not in (1, 2):
        raise BadRequest(f"{title} is a damaged ELF file: its header is cut off or of no class")
    machine: int = struct.unpack_from("<H", head, 18)[0]
    if head[5] != 1 or machine not in _MACHINES:
        for_what = _OTHERS.get(machine, f"the machine {machine}") if head[5] == 1 else "another endianness"
        raise BadRequest(f"{title} is for {for_what}, and pods run on x86_64; build it for that")
    is_64 = head[4] == 2
    at: int = struct.unpack_from("<Q" if is_64 else "<I", head, 32 if is_64 else 28)[0]
    each, count = struct.unpack_from("<HH", head, 54 if is_64 else 42)
    if each < (56 if is_64 else 32) or not 0 < count <= _MOST_SEGMENTS:
        raise BadRequest(f"{title} is a damaged ELF file: it has {count} segments of {each} bytes")
    return _Elf(is_64, machine, at, each, count)


def _has_pvh(read: "Read", elf: _Elf) -> bool:
    table = read(elf.segments_at, elf.segment_bytes * elf.segments)
    for number in range(len(table) // elf.segment_bytes):
        entry = table[number * elf.segment_bytes :]
        if struct.unpack_from("<I", entry)[0] != _PT_NOTE:
            continue
        offset, length = (
            (struct.unpack_from("<Q", entry, 8)[0], struct.unpack_from("<Q", entry, 32)[0])
            if elf.is_64
            else (struct.unpack_from("<I", entry, 4)[0], struct.unpack_from("<I", entry, 16)[0])
        )
        if any(note == (b"Xen\0", _PHYS32_ENTRY) for note in _notes(read(offset, min(length, _MOST_NOTES)))):
            return True
    return False


def _notes(data: bytes) -> "Iterator[tuple[bytes, int]]":
    """Name and type of each; a damaged one is the last."""
    at = 0
    while at + 12 <= len(data):
        name_bytes, content_bytes, number = struct.unpack_from("<III", data, at)
        yield data[at + 12 : at + 12 + min(name_bytes, 16)], number
        at += 12 + (name_bytes + 3 & ~3) + (content_bytes + 3 & ~3)


def _is_multiboot(head: bytes, elf: _Elf | None) -> bool:
    """Whether QEMU's loader takes it: one of 64 bits, or no ELF, must say itself where it is to be loaded."""
    flags = next(_headers(head), 0)
    return bool(flags & _HAS_ADDRESSES) or (bool(flags) and elf is not None and not elf.is_64)


def _headers(head: bytes) -> "Iterator[int]":
    """The flags of each multiboot header, with a bit that marks it as one."""
    for at in range(0, len(head) - 11, 4):
        magic, flags, checksum = struct.unpack_from("<III", head, at)
        if magic == _MULTIBOOT and (magic + flags + checksum) & 0xFFFFFFFF == 0:
            yield flags | _THERE
