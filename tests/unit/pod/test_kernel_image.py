# SPDX-License-Identifier: Apache-2.0
"""Files that are kernels, and files that are not, of which nothing is believed."""

import contextlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stage1.errors import BadRequest
from stage1.pod.kernel_image import BZIMAGE, MOST_BYTES, MULTIBOOT, PVH, Kernel, read_kernel

XEN = struct.pack("<III4sI", 4, 4, 18, b"Xen\0", 0x100000)
XEN_8 = struct.pack("<III4s4xI", 4, 4, 18, b"Xen\0", 0x100000)
GNU = struct.pack("<III4s20s", 4, 20, 3, b"GNU\0", b"")


def _elf(
    *,
    is_64: bool = True,
    machine: int = 62,
    notes: bytes = XEN,
    kind_of_note: int = 4,
    endian: int = 1,
    align: int = 4,
    load: tuple[int, int, int] = (0x100000, 0, 0x2000),
) -> bytes:
    """With a segment of notes, and one that is loaded: its address, its bytes and those in memory."""
    head_bytes, each = (64, 56) if is_64 else (52, 32)
    ident = b"\x7fELF" + bytes([2 if is_64 else 1, endian, 1]) + bytes(9)
    form = "<HHIQQQIHHHHHH" if is_64 else "<HHIIIIIHHHHHH"
    rest = struct.pack(form, 2, machine, 1, 0x100000, head_bytes, 0, 0, head_bytes, each, 2, 0, 0, 0)
    at = head_bytes + 2 * each
    address, in_file, in_memory = load
    segments = (
        struct.pack("<IIQQQQQQ", kind_of_note, 4, at, 0, 0, len(notes), len(notes), align)
        + struct.pack("<IIQQQQQQ", 1, 5, 0, address, address, in_file, in_memory, 4096)
        if is_64
        else struct.pack("<IIIIIIII", kind_of_note, at, 0, 0, len(notes), len(notes), 4, align)
        + struct.pack("<IIIIIIII", 1, 0, address, address, in_file, in_memory, 5, 4096)
    )
    return ident + rest + segments + notes


def _note(kind: int, content: bytes, name: bytes = b"Xen\0") -> bytes:
    padded = content + bytes(-len(content) % 4)
    return struct.pack("<III", len(name), len(content), kind) + name + bytes(-len(name) % 4) + padded


def _bsd(physical: int, *, entry: int = 0x200120, word: str = "<Q", notes: bytes = b"") -> bytes:
    """As FreeBSD's and NetBSD's kernels: linked high, in several segments of which one is for data alone, with notes of
    their own in one segment and Xen's in another.
    """
    virtual, each, count = 0xFFFFFFFF80200000, 56, 7
    ident = _note(1, struct.pack("<I", 1500000), b"FreeBSD\0") + _note(6, b"kernel\0", b"NetBSD\0\0")
    xen = notes or (
        _note(6, b"FreeBSD\0") + _note(3, struct.pack("<Q", 0xFFFFFFFF80000000)) + _note(4, bytes(8))
        + _note(7, b"yes\0")
        + _note(18, struct.pack(word, entry)) + _note(5, b"xen-3.0\0")
    )  # fmt: skip
    at = 64 + each * count
    head = (
        b"\x7fELF\2\1\1\x09"
        + bytes(8)
        + struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, virtual, 64, 0, 0, 64, each, count, 0, 0, 0)
    )

    def segment(kind: int, offset: int, up: int, in_file: int, in_memory: int) -> bytes:
        return struct.pack("<IIQQQQQQ", kind, 5, offset, virtual + up, physical + up, in_file, in_memory, 0x200000)

    notes_of = [(at, ident), (at + len(ident), xen)]
    table = segment(6, 64, 0, each * count, each * count) + segment(3, at, 0, 9, 9)
    table += segment(1, 0, 0, at, 0x1000) + segment(1, at, 0x200000, 8, 8) + segment(1, 0, 0x400000, 0, 0x300000)
    table += b"".join(struct.pack("<IIQQQQQQ", 4, 4, where, 0, 0, len(one), len(one), 4) for where, one in notes_of)
    return head + table + ident + xen


def _multiboot(flags: int = 0, *addresses: int) -> bytes:
    return struct.pack(f"<III{len(addresses)}I", 0x1BADB002, flags, -(0x1BADB002 + flags) & 0xFFFFFFFF, *addresses)


AT = 0x200000
ADDRESSED = _multiboot(1 << 16, AT, AT, AT + 32, 0x300000, AT)
"""Where a kernel is loaded, and a header that says so."""


def _bzimage(*, loadflags: int = 1, setup: int = 1, version: int = 0x20F, paragraphs: int = 0) -> bytes:
    head = bytearray(1024)
    head[0x1FE:0x200], head[0x202:0x206], head[0x211] = b"\x55\xaa", b"HdrS", loadflags
    head[0x1F1] = setup
    struct.pack_into("<I", head, 0x1F4, paragraphs)
    struct.pack_into("<H", head, 0x206, version)
    return bytes(head)


def _read(data: bytes, size: int = 0) -> Kernel:
    return read_kernel(lambda at, count: data[at : at + count], size or len(data), title="the kernel /k")


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (_elf(), Kernel(PVH, 0x102000)),
        (_elf(is_64=False, machine=3), Kernel(PVH, 0x102000)),
        (_elf(notes=GNU + XEN), Kernel(PVH, 0x102000)),
        (_elf(notes=XEN_8, align=8), Kernel(PVH, 0x102000)),
        (_elf(notes=XEN, align=1), Kernel(PVH, 0x102000)),
        (_bsd(0x200000), Kernel(PVH, 0x900000)),
        (_bsd(0x200000, word="<I"), Kernel(PVH, 0x900000)),
        (_elf(notes=GNU + _multiboot(), is_64=False, machine=3), Kernel(MULTIBOOT, 0x102000)),
        (_elf(notes=ADDRESSED), Kernel(MULTIBOOT, 0x300000)),
        (bytes(64) + ADDRESSED, Kernel(MULTIBOOT, 0x300000)),
        (bytes(64) + _multiboot(1 << 16, AT, AT, AT + 32, 0, AT), Kernel(MULTIBOOT, AT + 32)),
        (bytes(64) + _multiboot(1 << 16, AT + 64, AT, 0, 0, AT) + bytes(100), Kernel(MULTIBOOT, AT + 196)),
        (bytes(64) + _multiboot(1 << 16), Kernel(MULTIBOOT, 12)),
        (_elf(notes=XEN + ADDRESSED), Kernel(MULTIBOOT, 0x300000)),
        (_elf(notes=XEN + _multiboot(), is_64=False, machine=3), Kernel(MULTIBOOT, 0x102000)),
        (_bzimage(), Kernel(BZIMAGE)),
        (_bzimage(version=0x203, paragraphs=0xFFFF), Kernel(BZIMAGE)),
        (_bzimage(paragraphs=2) + bytes(17), Kernel(BZIMAGE)),
        (_bzimage(setup=0) + bytes(5 * 512), Kernel(BZIMAGE)),
    ],
)
def test_a_kernel_is_recognised_by_its_kind(data: bytes, expected: Kernel) -> None:
    assert _read(data) == expected


@pytest.mark.parametrize(
    ("data", "noun"),
    [
        (b"", "empty"),
        (b"#!/bin/sh\necho no kernel\n" * 100, "not a kernel"),
        (b"\x1f\x8b" + bytes(100), "compressed"),
        (bytes(0x38) + b"ARM\x64" + bytes(64), "aarch64"),
        (_elf(machine=183), "aarch64"),
        (_elf(machine=999), "999"),
        (_elf(endian=2), "endianness"),
        (_elf(endian=2, machine=0x1600), "S/390"),
        (bytes(0x38) + b"RSC\x05" + bytes(64), "RISC-V"),
        (bytes(0x24) + b"\x18\x28\x6f\x01" + bytes(64), "for ARM"),
        (b"\xcf\xfa\xed\xfe" + bytes(64), "Mach-O"),
        (b"\x27\x05\x19\x56" + bytes(64), "U-Boot"),
        (b"\xd0\x0d\xfe\xed" + bytes(64), "U-Boot"),
        (b"\0asm\1\0\0\0", "WebAssembly"),
        (b"070701" + bytes(64), "cpio"),
        (_elf(notes=GNU), "PVH"),
        (_elf(kind_of_note=1), "PVH"),
        (_elf(notes=_multiboot()), "objcopy"),
        (_elf(notes=_multiboot(), is_64=False), "objcopy"),
        (_elf(notes=b"\xd6\x50\x52\xe8" + bytes(12)), "multiboot2"),
        (_elf(load=(0x200000, 0, 0x1000)), "0x100000"),
        (_elf(load=(0x100000, 9999, 9999)), "9999"),
        (_bsd(0xFFFFFFFF80200000), "0x200120 is in none"),
        (_bsd(0x200000, entry=0xFFFFFFFF80200120), "0x80200120 is in none"),
        (_bsd(0x200000, notes=_note(2, bytes(8))), "without a PVH note"),
        (_bsd(0x200000) + _multiboot(), "multiboot"),
        (b"\x1f\x8b\x08" + _bsd(0x200000), "compressed"),
        (_elf(align=0), "by 0"),
        (_elf(notes=XEN, align=8), "by 8"),
        (_elf(notes=XEN, align=16), "by 16"),
        (_elf(notes=XEN + _multiboot()), "multiboot"),
        (_elf(notes=b"\xff" * 64), "PVH"),
        (_elf()[:30], "damaged"),
        (_elf()[:64] + _elf()[64:100], "damaged"),
        (_elf()[:54] + b"\0\0\0\0" + _elf()[58:], "damaged"),
        (bytes(64) + _multiboot(), "not a kernel"),
        (bytes(64) + _multiboot()[:-1] + b"\0", "not a kernel"),
        (bytes(64) + _multiboot(1 << 16, AT, AT, AT + 33, 0, AT), "33 of them"),
        (bytes(64) + _multiboot(1 << 16, AT, AT + 1, AT + 2, 0, AT), "addresses"),
        (bytes(64) + _multiboot(1 << 16, AT + 65, AT, 0, 0, AT), "addresses"),
        (bytes(64) + _multiboot(1 << 16, AT, AT, AT - 1, 0, AT), "addresses"),
        (bytes(64) + _multiboot(1 << 16, AT, AT, AT + 32, AT + 31, AT), "cleared"),
        (bytes(64) + _multiboot(1 << 16, AT, AT, AT + 32, 0, AT + 32), "entry 0x200020"),
        (_elf(notes=_multiboot(1 << 16, AT, AT, AT + 32, 0, 0)), "entry 0x0"),
        (_bzimage(loadflags=0), "disk"),
        (_bzimage()[:0x208], "disk"),
        (_bzimage(paragraphs=2), "truncated"),
        (_bzimage(setup=0), "truncated"),
        (_bzimage(setup=255), "truncated"),
        (b"MZ" + bytes(600), "UEFI"),
        (b"QFI\xfb" + bytes(600), "disk"),
        (bytes(0x1FE) + b"\x55\xaa" + bytes(600), "disk"),
        (b"\xfd7zXZ\0" + bytes(600), "compressed"),
    ],
)
def test_what_is_none_is_refused_with_what_it_looks_like(data: bytes, noun: str) -> None:
    with pytest.raises(BadRequest, match=noun):
        _read(data)


def test_one_beyond_the_limit_is_refused_unread() -> None:
    with pytest.raises(BadRequest, match=str(MOST_BYTES)):
        read_kernel(lambda at, count: pytest.fail("it was read"), MOST_BYTES + 1, title="the kernel /k")


@given(st.binary(max_size=200), st.sampled_from([b"", _elf()[:4], _elf()[:64], _elf(), _bzimage()]))
def test_nothing_else_comes_of_any_bytes(tail: bytes, head: bytes) -> None:
    with contextlib.suppress(BadRequest):
        assert _read(head + tail).kind in (PVH, MULTIBOOT, BZIMAGE)
