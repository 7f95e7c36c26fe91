# SPDX-License-Identifier: Apache-2.0
"""Removes trees by descriptors, also those that are changed meanwhile. Called by `beneath` and `files`.

No link is followed and no mount entered. Neither our stack, our descriptors nor our memory grows with how deep or how
wide a tree is. All functions raise OSError.
"""

import errno
import os
import stat
import struct
from collections.abc import Iterator

from stage1.linux import libc

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_RESOLVE = 1 | 2 | 4 | 8
"""RESOLVE_NO_XDEV, _NO_MAGICLINKS, _NO_SYMLINKS, _BENEATH."""
_DEEP = 48
"""Deeper directories are moved up first: neither stack nor descriptors may be exhausted by how deep they are nested."""
_SURPRISES = (errno.EISDIR, errno.ENOTDIR, errno.ENOTEMPTY, errno.ELOOP)
_MOST_SURPRISES = 1000
_AT_ONCE = 1024
MOST_ENTRIES = 20_000_000
"""Of one tree. Whoever makes more while we remove does so to keep us busy."""


def remove_entry(parent: int, name: str) -> None:
    """Remove `name` in the directory `parent`, with all below it. Idempotent."""
    removal = _Removal(parent)
    try:
        while not removal.remove(parent, name):
            pass
    except FileNotFoundError:
        return
    finally:
        removal.close()


def unlink_if_there(parent: int, name: str) -> None:
    """Like unlinkat(2), but idempotent."""
    try:
        os.unlink(name, dir_fd=parent)
    except FileNotFoundError:
        pass


def first(fd: int, most: int) -> Iterator[str]:
    """The names of at most so many entries of the directory, in its own order."""
    with os.scandir(fd) as entries:
        for entry, _ in zip(entries, range(most), strict=False):
            yield entry.name


def _enter(parent: int, name: str) -> int:
    how = struct.pack("=QQQ", _DIRECTORY, 0, _RESOLVE)
    opened = libc.openat2(parent, os.fsencode(name), how)
    if opened < 0:
        raise OSError(-opened, os.strerror(-opened), name)
    return opened


class _Removal:
    """The removal of one entry of the directory `parent`, with its budget of entries and of surprises."""

    def __init__(self, parent: int) -> None:
        self._top, self._left, self._surprises = -1, MOST_ENTRIES, _MOST_SURPRISES

    def close(self) -> None:
        """Give the descriptor of the outermost directory back."""
        if self._top >= 0:
            os.close(self._top)
            self._top = -1

    def remove(self, parent: int, name: str, *, depth: int = 0) -> bool:
        """Remove one entry; false if it was replaced meanwhile, so that something is still there."""
        self._left -= 1
        try:
            if self._left < 0:
                raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY), name)
            if not stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
                os.unlink(name, dir_fd=parent)
            elif depth >= _DEEP:
                os.rename(name, f"{name[:200]}.{os.urandom(6).hex()}", src_dir_fd=parent, dst_dir_fd=self._top)
            else:
                self._remove_directory(parent, name, depth=depth)
        except OSError as error:
            self._surprises -= 1
            if error.errno not in _SURPRISES or self._surprises < 0 or self._left < 0:
                raise
            return False
        return True

    def _remove_directory(self, parent: int, name: str, *, depth: int) -> None:
        below = _enter(parent, name)
        if depth == 0:
            self.close()
            self._top = below
        try:
            while entries := list(first(below, _AT_ONCE)):
                for entry in entries:
                    self._remove_below(below, entry, depth=depth + 1)
        finally:
            if depth:
                os.close(below)
        os.rmdir(name, dir_fd=parent)

    def _remove_below(self, parent: int, name: str, *, depth: int) -> None:
        try:
            self.remove(parent, name, depth=depth)
        except FileNotFoundError:
            pass
