# SPDX-License-Identifier: Apache-2.0
"""Our bzImage has each byte of the kernel at its place, and a header that tells a loader what it needs."""

import struct

import pytest

from tests.fakes.builders import BuildFailed, bzimage

STUB = b"\xeb\xfe" * 8
LOADED_AT = 1 << 20


def elf(*segments: tuple[int, bytes, int], entry: int = 0x200123, kind: int = 1) -> bytes:
    """A 64-bit ELF file with these (address, data, length in memory); a note is added, which is not loaded."""
    table = [(kind, *one) for one in segments] + [(4, 0, b"note", 4)]
    ident = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    head = ident + struct.pack("<HHIQQQIHHH", 2, 62, 1, entry, 64, 0, 0, 64, 56, len(table))
    headers, data = b"", b""
    for kind, address, content, size in table:
        offset = 64 + 56 * len(table) + len(data)
        headers += struct.pack("<IIQQQQQQ", kind, 5, offset, 0xFFFF_FFFF_8000_0000, address, len(content), size, 4096)
        data += content
    return head.ljust(64, b"\0") + headers + data


def packed(setup_sectors: int = 2) -> bytes:
    """The beginning of a bzImage as the kernel's build makes it, with something compressed behind it."""
    setup = bytearray(b"\xaa" * (setup_sectors + 1) * 512)
    setup[0x1F1], setup[0x202:0x206] = setup_sectors, b"HdrS"
    return bytes(setup) + b"compressed"


def field(image: bytes, at: int, form: str) -> int:
    return int(struct.unpack_from(form, image, at)[0])


def test_each_piece_lies_where_it_will_be_in_memory():
    kernel = bzimage.parse(elf((0x300000, b"data", 4), (0x200000, b"text", 4)))
    image = bzimage.image(packed(), STUB, kernel)
    memory = image[3 * 512 :]
    assert memory.startswith(STUB)
    for address, data in ((0x200000, b"text"), (0x300000, b"data")):
        assert memory[address - LOADED_AT :][: len(data)] == data
    gap = memory[len(STUB) : 0x200000 - LOADED_AT]
    assert gap == bytes(len(gap)) and b"compressed" not in image
    assert len(memory) % 16 == 0 and len(memory) - (0x300004 - LOADED_AT) < 16


def test_the_header_has_the_size_of_the_file_and_the_memory_it_needs():
    image = bzimage.image(packed(), STUB, bzimage.parse(elf((0x200000, b"text", 0x5000))))
    assert field(image, 0x1F4, "<I") * 16 == len(image) - 3 * 512
    assert field(image, 0x258, "<Q") == LOADED_AT
    assert field(image, 0x260, "<I") == 0x205000 - LOADED_AT
    assert field(image, 0x248, "<Q") == 0
    kept = [at for at in range(3 * 512) if image[at] != packed()[at]]
    assert all(0x1F4 <= at < 0x1F8 or 0x248 <= at < 0x264 for at in kept)


def test_the_entry_is_the_one_of_the_elf_file():
    assert bzimage.parse(elf((0x200000, b"text", 4), entry=0x234567)).entry == 0x234567


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(lambda: bzimage.parse(b"\x7fELF\x01\x01".ljust(64, b"\0")), id="32-bit"),
        pytest.param(lambda: bzimage.parse(b""), id="empty"),
        pytest.param(lambda: bzimage.image(bytes(4096), STUB, bzimage.parse(elf((0x200000, b"", 4)))), id="no bzImage"),
        pytest.param(lambda: bzimage.image(packed(), STUB, bzimage.parse(elf((0x100008, b"x", 1)))), id="on the stub"),
        pytest.param(
            lambda: bzimage.image(packed(), STUB, bzimage.parse(elf((0x200000, b"xy", 2), (0x200001, b"z", 1)))),
            id="pieces overlap",
        ),
    ],
)
def test_what_can_not_be_made_a_kernel_is_refused(case):
    with pytest.raises(BuildFailed):
        case()
