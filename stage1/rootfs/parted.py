# SPDX-License-Identifier: Apache-2.0
"""The lasting disk of a pod whose emptyDirs have limits: a partition with the writable layers and all other volumes,
and one for each volume with a limit, each with an ext4 of its own. Called by `scratch`.

The guest's kernel reads the table when the disk appears, and a volume that is full is full as any file system. No quota
of ext4's does this: the ordinary kernel has none.
"""

import os
import struct
from collections.abc import Sequence
from typing import NamedTuple

from stage1.errors import BadRequest
from stage1.linux import files
from stage1.linux.libc import Guard
from stage1.pod.model import DiskLimit
from stage1.rootfs import ext4

BASE_PARTITION, FIRST_PARTITION = 1, 5
"""Numbers: of the one with the writable layers, and of the first with a limit. Logical ones begin with 5."""
RECORD = "limits"
"""The file beside the disk that says which volume has which partition. The partition table is not read again, since
the guest could have changed it.
"""
_GAP, _LEAST_BASE = 1 << 20, 16 << 20
_SECTOR, _SIGNATURE = 512, b"\x55\xaa"
_LINUX, _EXTENDED, _NO_CHS = 0x83, 0x05, b"\xfe\xff\xff"
_JOURNAL_MIB, _BLOCK, _BYTES_PER_INODE = 4, 4096, 8192
_OPTIONS = ("-b", str(_BLOCK), "-i", str(_BYTES_PER_INODE), "-O", "has_journal,^resize_inode")


class Part(NamedTuple):
    """A partition, in bytes from the beginning of the disk."""

    start: int
    size: int


def layout(disk_bytes: int, limits: Sequence[DiskLimit]) -> list[Part]:
    """The partitions of a disk: of the writable layers, which have what the limits leave, and one for each limit, a MiB
    in front of each for what describes it. Raises BadRequest when they leave too little.
    """
    sizes = [file_system_bytes(limit.size_bytes) for limit in limits]
    base = disk_bytes // _GAP * _GAP - sum(_GAP + size for size in sizes) - _GAP
    if base < _LEAST_BASE:
        names = ", ".join(limit.name for limit in limits)
        raise BadRequest(
            f"the limits of the volumes {names} leave {max(base, 0) >> 20} MiB of the pod's disk of {disk_bytes >> 20} "
            "for everything else; give it a larger one by the annotation clearpod.io/scratch-mib, or smaller limits"
        )
    parts = [Part(_GAP, base)]
    for size in sizes:
        parts.append(Part(parts[-1].start + parts[-1].size + _GAP, size))
    return parts


def file_system_bytes(size_bytes: int) -> int:
    """Return the size of a file system that holds `size_bytes`: ext4 keeps 256 bytes for each inode, a journal and
    tables.
    """
    return _whole(size_bytes + size_bytes // 29 + ((_JOURNAL_MIB + 1) << 20))


def read(directory: str) -> tuple[DiskLimit, ...]:
    """The limits of the disk in `directory`, as written down when it was made; the order is that of the partitions."""
    try:
        text = files.read(f"{directory}/{RECORD}").decode()
    except FileNotFoundError:
        return ()
    rows = [line.rpartition(" ") for line in text.splitlines()]
    return tuple(DiskLimit(name, int(size)) for name, _, size in rows)


def make(path: str, disk_bytes: int, *, limits: Sequence[DiskLimit]) -> None:
    """Make the disk, mode 0600, sparse, and the record beside it. Raises BadRequest, NoSpace, NotFound, KernelError."""
    parts = layout(disk_bytes, limits)
    with Guard("write", path):
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.ftruncate(fd, disk_bytes)
            for offset, sector in tables(parts):
                os.pwrite(fd, sector, offset)
        finally:
            os.close(fd)
    for part in parts:
        _format(path, part)
    lines = "".join(f"{limit.name} {limit.size_bytes}\n" for limit in limits)
    files.write_atomic(f"{os.path.dirname(path)}/{RECORD}", lines.encode())


def tables(parts: Sequence[Part]) -> list[tuple[int, bytes]]:
    """The sectors, with their offsets; each describes one partition and says where the next one is described."""
    base, *others = parts
    first = base.start + base.size
    end = parts[-1].start + parts[-1].size
    link = _entry(_EXTENDED, Part(first, end - first)) if others else b""
    table = [(0, _table(_entry(_LINUX, base), link))]
    for part, following in zip(others, [*others[1:], None], strict=True):
        next_one = Part(following.start - _GAP - first, following.size + _GAP) if following else None
        link = _entry(_EXTENDED, next_one) if next_one else b""
        table.append((part.start - _GAP, _table(_entry(_LINUX, Part(_GAP, part.size)), link)))
    return table


def _table(*entries: bytes) -> bytes:
    return bytes(446) + b"".join(entries).ljust(64, b"\0") + _SIGNATURE


def _entry(kind: int, part: Part) -> bytes:
    return struct.pack("<B3sB3sII", 0, _NO_CHS, kind, _NO_CHS, part.start // _SECTOR, part.size // _SECTOR)


def _whole(size: int) -> int:
    return -(-size // _GAP) * _GAP


def _format(path: str, part: Part) -> None:
    """Inode tables stay holes: the file is full of zeros, and the guest is told not to write them (noinit_itable)."""
    lazy = f"offset={part.start},lazy_itable_init=1,lazy_journal_init=1,nodiscard"
    options = [*_OPTIONS, "-J", f"size={_JOURNAL_MIB}", "-E", lazy]
    what = f"a volume of {part.size} bytes at {part.start} of {path}"
    ext4.make(path, options, what=what, size=f"{part.size >> 10}k")
