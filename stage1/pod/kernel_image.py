# SPDX-License-Identifier: Apache-2.0
"""The format of a kernel's file: an ELF with a PVH note, one for multiboot, or a bzImage. Called before one is
booted. Pure: the file is read through a function, at a few offsets. The file is untrusted, so every value in it is
validated.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from typing import NamedTuple

from stage1.errors import BadRequest

Read = Callable[[int, int], bytes]


PVH, MULTIBOOT, BZIMAGE = "pvh", "multiboot", "bzImage"
MOST_BYTES = 256 << 20
"""Of one kernel."""
_MOST_SEGMENTS, _MOST_NOTES = 128, 1 << 16
_HEAD = 8192
"""The range in which a multiboot header has to be, and all that is read of a bzImage."""
_MACHINES = {3: "i386", 62: "x86_64"}
_OTHERS = {
    2: "SPARC", 4: "m68k", 8: "MIPS", 20: "PowerPC", 21: "PowerPC", 22: "S/390", 40: "ARM", 43: "SPARC",
    183: "aarch64", 243: "RISC-V", 258: "LoongArch",
}  # fmt: skip
_I386, _PT_LOAD, _PT_NOTE, _PHYS32_ENTRY = 3, 1, 4, 18
_MULTIBOOT, _MULTIBOOT2, _HAS_ADDRESSES, _THERE = 0x1BADB002, b"\xd6\x50\x52\xe8", 1 << 16, 1 << 32
_SECTOR, _PARAGRAPH, _WITH_LENGTH = 512, 16, 0x204
"""Units of a bzImage's header, and since which version that has the length of the rest."""
_COMPRESSED = (b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"\xfd7zX", b"BZh", b"\x02\x21\x4c\x18", b"\x04\x22\x4d\x18")
_DISK = "it is the image of a disk, which begins with firmware or a boot loader"
_FORMATS = (
    (0x38, b"ARM\x64", "it is for aarch64"),
    (0x38, b"RSC\x05", "it is for RISC-V"),
    (0x24, b"\x18\x28\x6f\x01", "it is for ARM"),
    (0, b"MZ", "it is a program for UEFI"),
    (0, b"\xcf\xfa\xed\xfe", "it is in the format Mach-O"),
    (0, b"\xce\xfa\xed\xfe", "it is in the format Mach-O"),
    (0, b"\xca\xfe\xba\xbe", "it is in the format Mach-O"),
    (0, b"\x27\x05\x19\x56", "it is an image for U-Boot, take the kernel out of it"),
    (0, b"\xd0\x0d\xfe\xed", "it is an image for U-Boot, take the kernel out of it"),
    (0, b"QFI\xfb", _DISK),
    (0, b"KDMV", _DISK),
    (0x1FE, b"\x55\xaa", _DISK),
    (0, b"#!", "it is a script"),
    (0, b"\0asm", "it is WebAssembly"),
    (0, b"07070", "it is a cpio archive, as initrds are"),
    (0, b"PK\3\4", "it is an archive"),
    (0, b"!<arch>", "it is an archive"),
    (0x101, b"ustar", "it is an archive"),
)
"""How files begin that are no kernels for this host: offset, bytes, what they are. The first that matches counts."""
_USABLE = "clearpod boots an ELF with a PVH note, a multiboot kernel or a bzImage"


class Kernel(NamedTuple):
    """The format, and the end of the memory into which it is loaded, in bytes; 0 if it has no fixed address."""

    kind: str
    end: int = 0


class _Elf(NamedTuple):
    is_64: bool
    machine: int
    segments: tuple[_Segment, ...]

    @property
    def is_32(self) -> bool:
        """All of it, so that a loader of multiboot takes it as it is."""
        return not self.is_64 and self.machine == _I386


class _Segment(NamedTuple):
    """A segment's range in the file, and in memory."""

    kind: int
    at: int
    bytes: int
    address: int
    memory_bytes: int
    align: int


def read_kernel(read: Read, size: int, *, title: str) -> Kernel:
    """PVH, MULTIBOOT or BZIMAGE. `read` gives so many bytes at an offset, or fewer at the file's end; `title` is what
    sentences call it. Raises BadRequest when it is no kernel that this host can boot, is cut off, or too large.
    """
    if size > MOST_BYTES:
        raise BadRequest(f"{title} has {size} bytes, and a kernel may have {MOST_BYTES}; use a smaller one")
    head = read(0, _HEAD)
    if head[:4] == b"\x7fELF":
        return _of_elf(read, head, size=size, title=title)
    if _is_bzimage(head):
        return _bzimage(head, size, title=title)
    if _is_multiboot(head, None):
        return Kernel(MULTIBOOT, _end_by_header(head, size, title=title))
    raise BadRequest(f"{title} is not a kernel: {_guess(head)}; {_USABLE}")


def _is_bzimage(head: bytes) -> bool:
    """Whether its header has bzImage's signature, and that it is loaded high."""
    has_magic = head[0x202:0x206] == b"HdrS" and head[0x1FE:0x200] == b"\x55\xaa"
    return has_magic and len(head) > 0x211 and bool(head[0x211] & 1)


def _bzimage(head: bytes, size: int, *, title: str) -> Kernel:
    version, paragraphs = struct.unpack_from("<H", head, 0x206)[0], struct.unpack_from("<I", head, 0x1F4)[0]
    needed = ((head[0x1F1] or 4) + 1) * _SECTOR
    if version >= _WITH_LENGTH and paragraphs:
        needed += (paragraphs - 1) * _PARAGRAPH + 1
    if size < needed:
        raise BadRequest(
            f"{title} is a bzImage that is truncated: it has {size} bytes, and by its header {needed} or more; copy it "
            "into the image again"
        )
    return Kernel(BZIMAGE)


def _of_elf(read: Read, head: bytes, *, size: int, title: str) -> Kernel:
    elf = _elf(read, head, title=title)
    loaded = [one for one in elf.segments if one.kind == _PT_LOAD and one.memory_bytes]
    for one in loaded:
        if one.at + one.bytes > size:
            raise BadRequest(
                f"{title} is truncated: it has {size} bytes, and a segment of it ends at {one.at + one.bytes}; copy it "
                "into the image again"
            )
    end = max((one.address + one.memory_bytes for one in loaded), default=0)
    if _is_multiboot(head, elf):
        return Kernel(MULTIBOOT, _end_by_header(head, size, title=title) or end)
    entry = _pvh_entry(read, elf)
    if entry is None:
        raise BadRequest(f"{title} is an ELF file {_lack(read, head, elf=elf)}; {_USABLE}")
    if any(_headers(head)):  # QEMU looks for one first
        raise BadRequest(
            f"{title} has a PVH note and a multiboot header without addresses: the header counts, and can't load "
            "64 bits by it; build it with one of them, or with addresses in the header"
        )
    if not any(one.address <= entry < one.address + one.memory_bytes for one in loaded):
        raise BadRequest(f"{title} has a PVH note whose entry {entry:#x} is in none of its segments; link it again")
    return Kernel(PVH, end)


def _lack(read: Read, head: bytes, *, elf: _Elf) -> str:
    odd = [one.align for one in elf.segments if _entry_of(read, one._replace(align=4)) is not None]
    if odd:
        return f"whose PVH note is not where the alignment of its segment by {odd[0]} puts it; align that by 4"
    if any(_headers(head)):
        return (
            "of 64 bits whose multiboot header has no addresses, and no PVH note; make one of 32 bits of it by "
            "`objcopy -O elf32-i386`"
        )
    if _MULTIBOOT2 in head:
        return "with a header for multiboot2, which can't be booted here, and without a PVH note"
    return "without a PVH note and without a multiboot header"


def _guess(head: bytes) -> str:
    if not head:
        return "it is empty"
    if head.startswith(_COMPRESSED):
        return "it is compressed, unpack it first"
    for at, magic, what in _FORMATS:
        if head[at : at + len(magic)] == magic:
            return what
    return f"it begins with {head[:8].hex()}"


def _elf(read: Read, head: bytes, *, title: str) -> _Elf:
    if len(head) < 64 or head[4] not in (1, 2):
        raise BadRequest(f"{title} is a damaged ELF file: its header is truncated or of an unknown class")
    machine: int = struct.unpack_from("<H" if head[5] == 1 else ">H", head, 18)[0]
    if head[5] != 1 or machine not in _MACHINES:
        for_what = _OTHERS.get(machine, f"the machine {machine}" if head[5] == 1 else "another endianness")
        raise BadRequest(f"{title} is for {for_what}, and pods run on x86_64; build it for that")
    is_64 = head[4] == 2
    at: int = struct.unpack_from("<Q" if is_64 else "<I", head, 32 if is_64 else 28)[0]
    each, count = struct.unpack_from("<HH", head, 54 if is_64 else 42)
    if each < (56 if is_64 else 32) or not 0 < count <= _MOST_SEGMENTS:
        raise BadRequest(f"{title} is a damaged ELF file: it has {count} segments of {each} bytes")
    table = read(at, each * count)
    if len(table) < each * count:
        raise BadRequest(f"{title} is a damaged ELF file: its {count} segments are described beyond its end")
    return _Elf(is_64, machine, tuple(_segment(table, each * number, is_64=is_64) for number in range(count)))


def _segment(table: bytes, at: int, *, is_64: bool) -> _Segment:
    if is_64:
        kind, _, offset, _, address, length, memory, align = struct.unpack_from("<IIQQQQQQ", table, at)
    else:
        kind, offset, _, address, length, memory, _, align = struct.unpack_from("<IIIIIIII", table, at)
    return _Segment(kind, offset, length, address, memory, align)


def _pvh_entry(read: Read, elf: _Elf) -> int | None:
    """The address at which the kernel is entered by its PVH note."""
    return next((entry for one in elf.segments if (entry := _entry_of(read, one)) is not None), None)


def _entry_of(read: Read, segment: _Segment) -> int | None:
    """The same by the notes of one segment."""
    if segment.kind != _PT_NOTE:
        return None
    data = read(segment.at, min(segment.bytes, _MOST_NOTES))
    for name, number, content in _notes(data, align=segment.align):
        if (name, number) == (b"Xen\0", _PHYS32_ENTRY) and len(content) >= 4:
            return int.from_bytes(content[:4], "little")
    return None


def _notes(data: bytes, *, align: int) -> Iterator[tuple[bytes, int, bytes]]:
    """Name, type and content of each note; a damaged one is the last. Aligned as QEMU does: by the segment's
    alignment.
    """
    at = 0
    while align > 0 and at + 12 <= len(data):
        name_bytes, content_bytes, number = struct.unpack_from("<III", data, at)
        content = at + 12 + -(-name_bytes // align) * align
        yield data[at + 12 : at + 12 + min(name_bytes, 16)], number, data[content : content + min(content_bytes, 16)]
        at = content + -(-content_bytes // align) * align


def _is_multiboot(head: bytes, elf: _Elf | None) -> bool:
    """Whether QEMU's loader accepts it: one of 64 bits, or no ELF, must have its own load address."""
    flags = next(_headers(head), 0)
    return bool(flags & _HAS_ADDRESSES) or (bool(flags) and elf is not None and elf.is_32)


def _end_by_header(head: bytes, size: int, *, title: str) -> int:
    """The end of the memory into which a multiboot header with addresses has its kernel loaded; 0 for other headers.
    Raises BadRequest for addresses by which nothing can be loaded: QEMU would end with them.
    """
    at, flags = next(_places(head), (0, 0))
    if not flags & _HAS_ADDRESSES:
        return 0
    header, load, load_end, bss_end, entry = struct.unpack("<5I", head[at + 12 : at + 32].ljust(20, b"\0"))
    begin = at - (header - load)
    length = load_end - load if load_end else size - begin
    end = load + length
    if header < load or begin < 0 or length < 0 or begin + length > size or 0 < bss_end < end:
        raise BadRequest(
            f"{title} has a multiboot header whose addresses do not fit its file of {size} bytes: {length} of them, "
            f"from {begin} on, would be loaded at {load:#x}, and memory cleared up to {bss_end:#x}; link it again, or "
            "copy it into the image again"
        )
    end = max(end, bss_end)
    if not load <= entry < end:
        raise BadRequest(
            f"{title} has a multiboot header whose entry {entry:#x} is not in what it loads, {load:#x} to {end:#x}; "
            "link it again"
        )
    return int(end)


def _headers(head: bytes) -> Iterator[int]:
    """The flags of each multiboot header, with a bit that marks it as one."""
    return (flags | _THERE for _, flags in _places(head))


def _places(head: bytes) -> Iterator[tuple[int, int]]:
    """The offset of each multiboot header, and its flags."""
    for at in range(0, len(head) - 11, 4):
        magic, flags, checksum = struct.unpack_from("<III", head, at)
        if magic == _MULTIBOOT and (magic + flags + checksum) & 0xFFFFFFFF == 0:
            yield at, flags
