# SPDX-License-Identifier: Apache-2.0
"""Reads the headers of a tar archive as it passes by, in memory that does not depend on their values.

Called by `facts`, in the confined process, and by `clearpod cp`. Knows ustar, GNU tar's long names and PAX
(POSIX.1-2017, pax). The size of an extended header is checked before it is read. File contents are skipped, and may
pass; headers wait until the next one is asked for, which approves them.
"""

from collections.abc import Iterator
from typing import NamedTuple

from stage1.errors import Unsupported
from stage1.pod.users import MAX_ID
from stage1.rootfs.corrupt import Corrupt
from stage1.rootfs.limits import Limits, refusal
from stage1.rootfs.passing import Passing

BLOCK = 512
_LONG_NAME, _LONG_LINK, _PAX, _GLOBAL, _SOLARIS = b"L", b"K", b"x", b"g", b"X"
_LINK, _DIRECTORY, _SPARSE = b"1", b"5", b"S"

_WITHOUT_CONTENT = (b"1", b"2", b"3", b"4", b"5", b"6")
_MOST_ID = 2**32 - 2
_KEYWORDS = (b"path", b"linkpath", b"size", b"uid", b"gid")
_ATTRIBUTES = (b"SCHILY.xattr.", b"LIBARCHIVE.xattr.")
_UNSET = {b"SCHILY.xattr.": b"SCHILY.unset.", b"LIBARCHIVE.xattr.": b"LIBARCHIVE.unset."}
"""Keys of the same length that mean nothing, for the attributes that an image can't set."""
_SETTABLE = (b"user.", b"security.", b"system.posix_acl_access", b"system.posix_acl_default")
"""The namespaces of attributes that a file can get when containerd unpacks a layer; it ignores all others. With
`trusted.` a layer would speak to the guest's overlay instead of by whiteouts.
"""
_ATTRIBUTE_BYTES = 255
"""Of an extended attribute's name, as in Linux. Of a longer one mkfs.erofs 1.8 makes an image that can't be read."""
_CAPABILITY = (b"SCHILY.xattr.security.capability", b"LIBARCHIVE.xattr.security.capability")


class Entry(NamedTuple):
    """One entry; `name` and `link` as they are written."""

    name: str
    link: str
    is_directory: bool
    is_link: bool
    has_capability: bool
    size: int
    """Of its content, in bytes."""
    header: bytes
    """Its block, the last one that was read; what extends it comes before."""


class Headers:
    """The entries of the archive `source`."""

    def __init__(self, source: Passing, *, limits: Limits, what: str) -> None:
        self.lacks = 0
        """Bytes that the archive lacks to be whole blocks, known after the entries."""
        self._source, self._limits, self._what = source, limits, what
        self._global: dict[bytes, bytes] = {}

    def entries(self) -> Iterator[Entry]:
        """Each entry until the first block of zeros, or the end. Who asks for the next one has approved the header of
        the one before, whose content passes then. Raises Corrupt, OverLimit, Unsupported.
        """
        count = 0
        while (entry := self._next()) is not None:
            count += 1
            if count > self._limits.layer_entries:
                cap = self._limits.layer_entries
                raise refusal(f"{self._what} has more than {cap} entries", key="layer_entries", cap=cap)
            yield entry
            self._pass_content(entry)

    def _next(self) -> Entry | None:
        more, begun = dict(self._global), self._source.position
        while (block := self._block(is_extended=self._source.position > begun)) is not None:
            kind, size = block[156:157], self._number(block, 124, size=12)
            if kind not in (_LONG_NAME, _LONG_LINK, _PAX, _GLOBAL, _SOLARIS):
                return self._entry(block, more)
            data = self._extended(size)
            if kind in (_LONG_NAME, _LONG_LINK):
                more[b"path" if kind == _LONG_NAME else b"linkpath"] = data.split(b"\0", 1)[0]
            else:
                unset = bytearray(data)
                records = self._records(data, unset)
                if unset != data:
                    self._source.amend(bytes(unset).ljust(_padded(size), b"\0"))
                if kind == _GLOBAL:
                    self._global |= records
                    more = self._global | more
                else:
                    more |= records
        return None

    def _block(self, *, is_extended: bool) -> bytes | None:
        """The next header; None at the end, behind which nothing is looked at."""
        position = self._source.position
        block = self._source.read(BLOCK)
        if len(block) < BLOCK or not block.strip(b"\0"):
            if is_extended:
                raise self._corrupt("an extended header is followed by nothing")
            if block.strip(b"\0") or (block and not position and len(block) < BLOCK):
                # The reader behind us stops silently at a header that it can't read.
                raise self._corrupt(f"garbage at byte {position}" if position else "it is too short")
            return None
        field = block[148:156].strip(b" \0")
        rest = block[:148] + b" " * 8 + block[156:]
        signed = sum(rest) - 256 * sum(byte > 127 for byte in rest) if max(rest) > 127 else sum(rest)
        if not _is_octal(field) or int(field, 8) not in (sum(rest), signed):
            raise self._corrupt(f"garbage at byte {position}" if position else "it does not begin with a header")
        return block

    def _entry(self, block: bytes, more: dict[bytes, bytes]) -> Entry:
        kind = block[156:157]
        name = _text(more[b"path"] if b"path" in more else _ustar_name(block))
        link = _text(more[b"linkpath"] if b"linkpath" in more else block[157:257].split(b"\0", 1)[0])
        if kind == _SPARSE or any(key.startswith(b"GNU.sparse.") for key in more):
            raise Unsupported(f"{self._what} has the sparse file {name[:200]!r}, which clearpod can't unpack; "
                              "build the image again without it")  # fmt: skip
        size = self._decimal(more[b"size"], "size") if b"size" in more else self._number(block, 124, size=12)
        for key, at in ((b"uid", 108), (b"gid", 116)):
            number = self._decimal(more[key], key.decode()) if key in more else self._number(block, at, size=8)
            if not 0 <= number <= _MOST_ID:
                raise self._corrupt(f"{name[:200]!r} has the {key.decode()} {_short(number)}")
            if number > MAX_ID:
                raise Unsupported(f"{self._what} has {name[:200]!r} with the {key.decode()} {number}, and the largest "
                                  f"id in a pod is {MAX_ID}; build the image again with others")  # fmt: skip
        self._check_name(name)
        self._check_name(link)
        kind = _DIRECTORY if kind == b"\0" and name.endswith("/") else kind
        size = 0 if kind in _WITHOUT_CONTENT else size
        if not 0 <= size <= self._limits.layer_mib << 20:
            raise self._incomplete(name, size, left=self._source.drain())
        has_capability = any(key in more for key in _CAPABILITY)
        return Entry(name, link, kind == _DIRECTORY, kind == _LINK, has_capability, size, block)

    def _pass_content(self, entry: Entry) -> None:
        passed = self._source.skip(_padded(entry.size))
        if passed < entry.size:
            raise self._incomplete(entry.name, entry.size, left=passed)
        self.lacks = _padded(entry.size) - passed

    def _incomplete(self, name: str, size: int, *, left: int) -> Corrupt:
        return self._corrupt(f"{name[:200]!r} has {_short(size)} bytes, and {left} are left in the archive")

    def _check_name(self, name: str) -> None:
        cap = self._limits.path_bytes
        if (length := len(name.encode("utf-8", "surrogateescape"))) > cap:
            raise refusal(f"{self._what} has a path of {length} bytes", key="path_bytes", cap=cap)
        if "\0" in name:
            raise self._corrupt(f"the name {name[:200]!r} has a zero byte")

    def _extended(self, size: int) -> bytes:
        cap = self._limits.header_kib << 10
        if size > cap:
            what = f"{self._what} has an extended header of {_short(size)} bytes"
            raise refusal(what, key="header_kib", cap=self._limits.header_kib)
        data = self._source.read(_padded(size)) if size > 0 else b""
        if not 0 <= size <= len(data):
            raise self._incomplete("an extended header", size, left=len(data) + self._source.drain())
        return data[:size]

    def _records(self, data: bytes, unset: bytearray) -> dict[bytes, bytes]:
        """Parse a PAX header ("LENGTH KEY=VALUE\\n" for each record) and return the records that matter here. In
        `unset`, a copy of it, the attributes lose their keys that no file can get.
        """
        records, position, end = {}, 0, len(data.rstrip(b"\0"))
        while position < end:
            digits, space, _ = data[position : position + 24].partition(b" ")
            length = int(digits) if digits.isdigit() and len(digits) < 12 else 0
            key, equals, value = data[position + len(digits) + 1 : position + length].partition(b"=")
            if not space or not equals or not value.endswith(b"\n") or position + length > end:
                raise self._corrupt("a PAX header can't be read")
            if key.startswith(_ATTRIBUTES) and len(key.split(b".", 2)[2]) > _ATTRIBUTE_BYTES:
                raise self._corrupt(f"it has an attribute {_text(key[:60])!r}... of {len(key)} bytes")
            for prefix in _ATTRIBUTES:
                if key.startswith(prefix) and not key.startswith(tuple(prefix + one for one in _SETTABLE)):
                    at = position + len(digits) + 1
                    unset[at : at + len(prefix)] = _UNSET[prefix]
            # An empty value takes back what a global header says.
            if value != b"\n" and (key in _KEYWORDS or key in _CAPABILITY or key.startswith(b"GNU.sparse.")):
                records[key] = value[:-1]
            position += length
        return records

    def _number(self, block: bytes, at: int, *, size: int) -> int:
        field = block[at : at + size]
        if field[0] in (0x80, 0xFF):  # base-256, of GNU tar
            return int.from_bytes(field[1:], "big") - (1 << 8 * (size - 1) if field[0] == 0xFF else 0)
        text = field.split(b"\0", 1)[0].strip()
        if not _is_octal(text or b"0"):
            raise self._corrupt(f"a number is {field!r}")
        return int(text or b"0", 8)

    def _decimal(self, text: bytes, key: str) -> int:
        if not text.removeprefix(b"-").isdigit() or len(text) > 30:
            raise self._corrupt(f"a PAX header has the {key} {text[:40]!r}")
        return int(text)

    def _corrupt(self, why: str) -> Corrupt:
        return Corrupt(f"{self._what} is not a valid tar archive: {why}; push the image again")


def _padded(size: int) -> int:
    return -(-size // BLOCK) * BLOCK


def _is_octal(text: bytes) -> bool:
    return bool(text) and not text.strip(b"01234567")


def _short(number: int) -> str:
    return str(number) if abs(number) < 10**30 else "too many"


def _ustar_name(block: bytes) -> bytes:
    name, prefix = (block[at : at + size].split(b"\0", 1)[0] for at, size in ((0, 100), (345, 155)))
    return prefix + b"/" + name if prefix else name


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")


def directory(path: str) -> bytes:
    """The blocks of an entry for the directory `path` (relative; "" is the root), mode 0755, of root."""
    name = f"./{path}/".encode("utf-8", "surrogateescape") if path else b"./"
    if len(name) < 100:
        return _header(name, _DIRECTORY, size=0)
    data = (name + b"\0").ljust(_padded(len(name) + 1), b"\0")
    return _header(b"././@LongLink", _LONG_NAME, size=len(name) + 1) + data + _header(name[:99], _DIRECTORY, size=0)


def renamed(header: bytes, name: bytes) -> bytes:
    """A header block with the short `name` in place of its own."""
    head, tail = name.ljust(100, b"\0") + header[100:148], header[156:345] + bytes(155) + header[500:]
    return head + b"%06o\0 " % (sum(head) + sum(tail) + 8 * 32) + tail


def _header(name: bytes, kind: bytes, *, size: int) -> bytes:
    numbers = b"0000755\0" + b"0000000\0" * 2 + b"%011o\0" % size + b"00000000000\0"
    head = name.ljust(100, b"\0") + numbers
    tail = kind + bytes(100) + b"ustar  \0"
    checksum = sum(head) + sum(tail) + 8 * 32
    return (head + b"%06o\0 " % checksum + tail).ljust(BLOCK, b"\0")
