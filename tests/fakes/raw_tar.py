# SPDX-License-Identifier: Apache-2.0
"""Tar archives, byte for byte, as no honest program writes them. Must not use clearpod's own code, which it checks."""

END = bytes(1024)


def header(
    name: bytes,
    kind: bytes = b"0",
    *,
    size: bytes = b"00000000000\0",
    link: bytes = b"",
    uid: bytes = b"0000000\0",
    device: bytes = b"0000001\x000000003\0",
) -> bytes:
    """One ustar header with a right checksum; `device` is both of its numbers."""
    head = name.ljust(100, b"\0") + b"0000644\0" + uid + b"0000000\0" + size + b"00000000000\0"
    tail = kind + link.ljust(100, b"\0") + b"ustar\x0000" + bytes(64) + device
    return (head + b"%06o\0 " % (sum(head) + sum(tail) + 256) + tail).ljust(512, b"\0")


def octal(number: int) -> bytes:
    """A size field."""
    return b"%011o\0" % number


def base256(number: int, width: int = 12) -> bytes:
    """A number field as GNU tar writes large and negative numbers."""
    first = b"\xff" if number < 0 else b"\x80"
    return first + (number % (1 << 8 * (width - 1))).to_bytes(width - 1, "big")


def padded(data: bytes) -> bytes:
    """`data` with zeros up to a whole block."""
    return data.ljust(-(-len(data) // 512) * 512, b"\0")


def pax(records: dict[bytes, bytes], kind: bytes = b"x") -> bytes:
    """A PAX header with these records."""
    data = b""
    for key, value in records.items():
        record = b" " + key + b"=" + value + b"\n"
        length = len(record)
        while len(str(length)) + len(record) != length:
            length = len(str(length)) + len(record)
        data += str(length).encode() + record
    return header(b"pax", kind, size=octal(len(data))) + padded(data)
