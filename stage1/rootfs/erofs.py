# SPDX-License-Identifier: Apache-2.0
"""Just enough of the erofs format to look a path up, read its attributes, and correct those of a directory.

Called by `merge` on images that mkfs.erofs has just written, so nothing needs to be mounted to know what is
in them. Uncompressed images only. Format: the kernel's fs/erofs/erofs_fs.h, all little endian.
"""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Container, Iterator, Sequence
from types import TracebackType
from typing import NamedTuple

from stage1.rootfs.corrupt import Corrupt

_MAGIC = 0xE0F5E1E2
_SUPER = struct.Struct("<IIIBBHQQIIII")  # 1024 bytes into the file
_COMPACT = struct.Struct("<HHHHIIIIHHI")
_EXTENDED = struct.Struct("<HHHHQIIIIQII16x")
_DIRENT = struct.Struct("<QHBB")
_XATTR = struct.Struct("<BBH")
_TABLE = struct.Struct("<HH")  # in the superblock: how many other devices, and in which slot their table begins
_TABLE_AT = 1024 + 86
_DEVICE = struct.Struct("<64xII56x")
_BLOCK_BITS = range(9, 17)
_MOST_BYTES = 1 << 62
_INODE_SLOT = 32
_FLAT_PLAIN, _FLAT_INLINE = 0, 2
_FT_DIR = 2
_PREFIXES = {1: "user.", 4: "trusted.", 6: "security."}


class Attributes(NamedTuple):
    """Permission bits, owner, and time of change in seconds."""

    mode: int = 0o755
    uid: int = 0
    gid: int = 0
    mtime: int = 0


class Inode(NamedTuple):
    """`offset` is where it starts in the file, `body` where what follows it does."""

    offset: int
    body: int
    xattr_bytes: int
    layout: int
    mode: int
    uid: int
    gid: int
    mtime: int
    size: int
    start: int

    def is_directory(self) -> bool:
        """Whether it is a directory, as by S_ISDIR."""
        return stat.S_ISDIR(self.mode)

    def attributes(self) -> Attributes:
        """The part that chmod, chown and utimes can change."""
        return Attributes(stat.S_IMODE(self.mode), self.uid, self.gid, self.mtime)


class Image:
    """An erofs file, open until the end of the `with`."""

    def __init__(self, path: str, *, writable: bool = False, hides_all: bool = False) -> None:
        """`hides_all`: a layer whose root is opaque, which only its facts tell.

        Raises Corrupt when it is not a complete erofs file, OSError when it can't be opened.
        """
        self._path, self.hides_all = path, hides_all
        self._fd = os.open(path, (os.O_RDWR if writable else os.O_RDONLY) | os.O_CLOEXEC)
        try:
            self._read_super()
        except BaseException:
            os.close(self._fd)
            raise

    def _read_super(self) -> None:
        fields = _SUPER.unpack(self._read(1024, _SUPER.size))
        magic, bits, self.root, self._built, blocks = (fields[i] for i in (0, 3, 5, 7, 9))
        self._meta, self._shared = fields[10] << bits, fields[11] << bits
        self._block = 1 << bits
        is_known = magic == _MAGIC and bits in _BLOCK_BITS
        if not is_known or os.fstat(self._fd).st_size < blocks << bits:
            raise Corrupt(f"{self._path} is a truncated erofs file; remove the image and pull it again")

    def __enter__(self) -> Image:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._fd)

    def _read(self, offset: int, size: int) -> bytes:
        data = os.pread(self._fd, size, offset) if offset < _MOST_BYTES else b""
        if len(data) != size:
            raise Corrupt(f"{self._path} ends too early; remove the image and pull it again")
        return data

    def devices(self) -> tuple[tuple[int, int], ...]:
        """(offset, size) in bytes of each file that this image points into, were all of them one piece of memory."""
        count, slot = _TABLE.unpack(self._read(_TABLE_AT, _TABLE.size))
        places = [(slot + n) * _DEVICE.size for n in range(count)]
        devices = [_DEVICE.unpack(self._read(place, _DEVICE.size)) for place in places]
        return tuple((start * self._block, blocks * self._block) for blocks, start in devices)

    def walk(self, path: str) -> Iterator[Inode]:
        """The root, then the inode of each component of `path` (relative) as far as they exist."""
        inode = self.inode(self.root)
        yield inode
        for name in path.split("/") if path else ():
            number = self._entry(inode, os.fsencode(name)) if inode.is_directory() else None
            if number is None:
                return
            inode = self.inode(number)
            yield inode

    def find(self, path: str) -> Inode | None:
        """The inode at `path` (relative, "" is the root; symbolic links are not followed), or None."""
        inodes = list(self.walk(path))
        return inodes[-1] if len(inodes) == 1 + (path.count("/") + 1 if path else 0) else None

    def inode(self, number: int) -> Inode:
        """The inode of that number, as `root` and `children` return them."""
        offset = self._meta + number * _INODE_SLOT
        first = self._read(offset, 1)[0]
        layout, extended = first >> 1 & 7, first & 1
        form = _EXTENDED if extended else _COMPACT
        field = form.unpack(self._read(offset, form.size))
        # i_reserved precedes i_u in a compact inode only, which has i_ino behind it too.
        start, uid, gid = (field[5], field[7], field[8]) if extended else (field[6], field[8], field[9])
        mtime = field[9] if extended else self._built
        xattrs = 12 + 4 * (field[1] - 1) if field[1] else 0
        return Inode(offset, offset + form.size, xattrs, layout, field[2], uid, gid, mtime, field[4], start)

    def children(self, number: int) -> Iterator[tuple[str, int, bool]]:
        """Name, number, and whether it is a directory, of everything in the directory `number`."""
        for name, child, kind in self._entries(self.inode(number)):
            if name not in (b".", b".."):
                yield os.fsdecode(name), child, kind == _FT_DIR

    def _entry(self, directory: Inode, searched: bytes) -> int | None:
        return next((number for name, number, _ in self._entries(directory) if name == searched), None)

    def _entries(self, directory: Inode) -> Iterator[tuple[bytes, int, int]]:
        for block in self._blocks(directory):
            yield from self._dirents(block)

    def _dirents(self, block: bytes) -> Iterator[tuple[bytes, int, int]]:
        count = _DIRENT.unpack_from(block)[1] // _DIRENT.size if len(block) >= _DIRENT.size else 0
        if not 0 < count * _DIRENT.size <= len(block):
            raise Corrupt(f"{self._path} has a directory that can't be read; remove the image and pull it again")
        entries = [_DIRENT.unpack_from(block, i * _DIRENT.size) for i in range(count)]
        ends = [entry[1] for entry in entries[1:]] + [len(block)]
        for (inode, start, kind, _), end in zip(entries, ends, strict=True):
            yield block[start:end].rstrip(b"\0"), inode, kind

    def content(self, inode: Inode) -> bytes:
        """The content of a regular file of a layer. Check its size first."""
        return b"".join(self._blocks(inode))

    def _blocks(self, inode: Inode) -> Iterator[bytes]:
        if inode.layout not in (_FLAT_PLAIN, _FLAT_INLINE):
            raise Corrupt(
                f"{self._path} has a file or directory in an unknown layout ({inode.layout}); pull the image again"
            )
        for position in range(0, inode.size, self._block):
            size = min(self._block, inode.size - position)
            inline = inode.layout == _FLAT_INLINE and position + self._block >= inode.size
            start = inode.body + inode.xattr_bytes if inline else inode.start * self._block + position
            yield self._read(start, size)

    def xattr(self, inode: Inode, name: str) -> bytes | None:
        """The value of an extended attribute such as "security.capability", or None."""
        if not inode.xattr_bytes:
            return None
        area = self._read(inode.body, inode.xattr_bytes)
        count = area[4]
        if len(area) < 12 + 4 * count:
            raise Corrupt(f"{self._path} has attributes that can't be read; remove the image and pull it again")
        shared = struct.unpack_from(f"<{count}I", area, 12)
        for place in shared:
            entry = self._read(self._shared + 4 * place, _XATTR.size)
            length, _, size = _XATTR.unpack(entry)
            entry = self._read(self._shared + 4 * place, _XATTR.size + length + size)
            if (value := _match(entry, name, position=0)) is not None:
                return value
        return _search(area, name, position=12 + 4 * len(shared))

    def is_opaque(self, inode: Inode) -> bool:
        """Whether this directory of a layer hides what lower layers have in it."""
        is_root = self.hides_all and inode == self.inode(self.root)
        return is_root or self.xattr(inode, "trusted.overlay.opaque") == b"y"

    def set_attributes(self, inode: Inode, attributes: Attributes) -> None:
        """Rewrite them in place. The image must have extended inodes and no checksum (mkfs -Enosbcrc)."""
        head = self._read(inode.offset, _EXTENDED.size)
        field = list(_EXTENDED.unpack(head))
        if not field[0] & 1:
            raise Corrupt(f"{self._path} was not made with extended inodes; pull the image again")
        field[2] = stat.S_IFMT(field[2]) | attributes.mode
        field[7], field[8], field[9] = attributes.uid, attributes.gid, attributes.mtime
        os.pwrite(self._fd, _EXTENDED.pack(*field), inode.offset)

    def keep(self, directory: Inode, names: Container[str]) -> None:
        """Take all other names out of a directory, in place: each block only shrinks, empty ones go."""
        gone = 0
        kept = []
        for block in self._blocks(directory):
            entries = list(self._dirents(block))
            left = [e for e in entries if e[0] in (b".", b"..") or os.fsdecode(e[0]) in names]
            gone += sum(kind == _FT_DIR for name, _, kind in entries if (name, _, kind) not in left)
            if left:
                kept.append(_packed(left))
        self._rewrite(directory, kept, gone=gone)

    def _rewrite(self, directory: Inode, blocks: Sequence[bytes], *, gone: int) -> None:
        full = directory.size // self._block if directory.layout == _FLAT_INLINE else len(blocks)
        layout = _FLAT_INLINE if len(blocks) > full else _FLAT_PLAIN
        for number, block in enumerate(blocks):
            inline = number >= full
            start = directory.body + directory.xattr_bytes if inline else (directory.start + number) * self._block
            os.pwrite(self._fd, block if inline else block.ljust(self._block, b"\0"), start)
        field = list(_EXTENDED.unpack(self._read(directory.offset, _EXTENDED.size)))
        field[0] = field[0] & ~0xE | layout << 1
        field[4] = (len(blocks) - 1) * self._block + len(blocks[-1])
        field[11] -= gone
        os.pwrite(self._fd, _EXTENDED.pack(*field), directory.offset)


def _packed(entries: Sequence[tuple[bytes, int, int]]) -> bytes:
    heads, names = b"", b""
    for name, inode, kind in entries:
        heads += _DIRENT.pack(inode, len(entries) * _DIRENT.size + len(names), kind, 0)
        names += name
    return heads + names


def _search(area: bytes, name: str, *, position: int) -> bytes | None:
    while position + _XATTR.size <= len(area) and area[position : position + _XATTR.size].strip(b"\0"):
        if (value := _match(area, name, position=position)) is not None:
            return value
        length, _, size = _XATTR.unpack_from(area, position)
        position += (_XATTR.size + length + size + 3) & ~3
    return None


def _match(area: bytes, name: str, *, position: int) -> bytes | None:
    length, index, size = _XATTR.unpack_from(area, position)
    start = position + _XATTR.size
    full_name = _PREFIXES.get(index, "?") + area[start : start + length].decode("utf-8", "replace")
    return area[start + length : start + length + size] if full_name == name else None
