# SPDX-License-Identifier: Apache-2.0
"""Files that are kernels, and files that are not, of which nothing is believed."""

import contextlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stage1.errors import BadRequest
from stage1.pod.kernel_image import BZIMAGE, MOST_BYTES, MULTIBOOT, PVH, kind

XEN = struct.pack("<III4sI", 4, 4, 18, b"Xen\0", 0x100000)
GNU = struct.pack("<III4s20s", 4, 20, 3, b"GNU\0", b"")


def _elf(*, is_64: bool = True, machine: int = 62, notes: bytes = XEN, kind_of_note: int = 4, endian: int = 1) -> bytes:
    head_bytes, each = (64, 56) if is_64 else (52, 32)
    ident = b"\x7fELF" + bytes([2 if is_64 else 1, endian, 1]) + bytes(9)
    rest = (
        struct.pack("<HHIQQQIHHHHHH", 2, machine, 1, 0x100000, head_bytes, 0, 0, head_bytes, each, 1, 0, 0, 0)
        if is_64
        else struct.pack("<HHIIIIIHHHHHH", 2, machine, 1, 0x100000, head_bytes, 0, 0, head_bytes, each, 1, 0, 0, 0)
    )
    at = head_bytes + each
    segment = (
        struct.pack("<IIQQQQQQ", kind_of_note, 4, at, 0, 0, len(notes), len(notes), 4)
        if is_64
        else struct.pack("<IIIIIIII", kind_of_note, at, 0, 0, len(notes), len(notes), 4, 4)
    )
    return ident + rest + segment + notes


def _multiboot(flags: int = 0) -> bytes:
    return struct.pack("<III", 0x1BADB002, flags, -(0x1BADB002 + flags) & 0xFFFFFFFF)


def _bzimage(*, loadflags: int = 1) -> bytes:
    head = bytearray(1024)
    head[0x1FE:0x200], head[0x202:0x206], head[0x211] = b"\x55\xaa", b"HdrS", loadflags
    return bytes(head)


def _kind(data: bytes, size: int = 0) -> str:
    return kind(lambda at, count: data[at : at + count], size or len(data), title="the kernel /k")


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (_elf(), PVH),
        (_elf(is_64=False, machine=3), PVH),
        (_elf(notes=GNU + XEN), PVH),
        (_elf(notes=GNU + _multiboot(), is_64=False, machine=3), MULTIBOOT),
        (_elf(notes=_multiboot(1 << 16)), MULTIBOOT),
        (bytes(64) + _multiboot(1 << 16), MULTIBOOT),
        (_elf(notes=XEN + _multiboot(1 << 16)), MULTIBOOT),
        (_elf(notes=XEN + _multiboot(), is_64=False, machine=3), MULTIBOOT),
        (_bzimage(), BZIMAGE),
    ],
)
def test_what_is_a_kernel_is_told_by_its_kind(data: bytes, expected: str) -> None:
    assert _kind(data) == expected


@pytest.mark.parametrize(
    ("data", "noun"),
    [
        (b"", "empty"),
        (b"#!/bin/sh\necho no kernel\n" * 100, "no kernel"),
        (b"\x1f\x8b" + bytes(100), "compressed"),
        (bytes(0x38) + b"ARM\x64" + bytes(64), "aarch64"),
        (_elf(machine=183), "aarch64"),
        (_elf(machine=999), "999"),
        (_elf(endian=2), "endianness"),
        (_elf(notes=GNU), "PVH"),
        (_elf(kind_of_note=1), "PVH"),
        (_elf(notes=_multiboot()), "PVH"),
        (_elf(notes=XEN + _multiboot()), "multiboot"),
        (_elf(notes=b"\xff" * 64), "PVH"),
        (_elf()[:30], "damaged"),
        (_elf()[:54] + b"\0\0\0\0" + _elf()[58:], "damaged"),
        (bytes(64) + _multiboot(), "no kernel"),
        (bytes(64) + _multiboot()[:-1] + b"\0", "no kernel"),
        (_bzimage(loadflags=0), "no kernel"),
    ],
)
def test_what_is_none_is_refused_with_what_it_looks_like(data: bytes, noun: str) -> None:
    with pytest.raises(BadRequest, match=noun):
        _kind(data)


def test_one_beyond_the_limit_is_refused_unread() -> None:
    with pytest.raises(BadRequest, match=str(MOST_BYTES)):
        kind(lambda at, count: pytest.fail("it was read"), MOST_BYTES + 1, title="the kernel /k")


@given(st.binary(max_size=200), st.sampled_from([b"", _elf()[:4], _elf()[:64], _elf(), _bzimage()]))
def test_nothing_else_comes_of_any_bytes(tail: bytes, head: bytes) -> None:
    with contextlib.suppress(BadRequest):
        assert _kind(head + tail) in (PVH, MULTIBOOT, BZIMAGE)
