# SPDX-License-Identifier: Apache-2.0
"""A cpio archive in the `newc` format, which the kernel unpacks as its initramfs. Pure.

Format: Documentation/driver-api/early-userspace/buffer-format.rst. Owner root, time zero: same input, same bytes.
"""

from typing import NamedTuple

S_DIR, S_FILE, S_CHAR = 0o040000, 0o100000, 0o020000


class Entry(NamedTuple):
    """One file. `mode` has the type bits; `device` is (major, minor) of a node."""

    name: str
    mode: int
    data: bytes = b""
    device: tuple[int, int] = (0, 0)


def archive(entries: list[Entry]) -> bytes:
    """The whole archive, padded to 512 bytes."""
    parts = [_record(number, entry) for number, entry in enumerate(entries, start=1)]
    parts.append(_record(0, Entry("TRAILER!!!", 0)))
    return _pad(b"".join(parts), 512)


def _record(inode: int, entry: Entry) -> bytes:
    links = 2 if entry.mode & S_DIR == S_DIR else 1
    name = entry.name.encode() + b"\0"
    fields = (inode, entry.mode, 0, 0, links, 0, len(entry.data), 0, 0, *entry.device, len(name), 0)
    header = b"070701" + b"".join(b"%08X" % field for field in fields)
    return _pad(header + name, 4) + _pad(entry.data, 4)


def _pad(data: bytes, to: int) -> bytes:
    return data + bytes(-len(data) % to)
