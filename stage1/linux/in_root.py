# SPDX-License-Identifier: Apache-2.0
"""Files of an image or of an app, found as the container would find them: its links are followed and stay inside.

The second mode of `beneath`, for those who look into images; and paths of the host without any link, for volumes.
Nothing is written here.
"""

import os
import stat

from stage1.linux import libc
from stage1.linux.beneath import NO_MAGICLINKS, NO_SYMLINKS, Root, openat2, require
from stage1.linux.libc import Guard

_RESOLVE_IN_ROOT = 16
_RESOLVE = _RESOLVE_IN_ROOT | NO_MAGICLINKS


def open_path(root: str | int, path: str, *, flags: int = os.O_RDONLY) -> int:
    """Open `path` of an image or an app as a process would that is chrooted to `root`, a path or a descriptor.

    Symbolic links, `..` and absolute targets stay inside, as openat2(2) RESOLVE_IN_ROOT promises; what is no regular
    file or directory is refused unless `flags` have O_PATH. The caller closes the descriptor.
    """
    if isinstance(root, str):
        with Root(root) as opened:
            return open_path(opened.fd, path, flags=flags)
    pinned = openat2(root, path, flags & os.O_NOFOLLOW | os.O_PATH, mode=0, resolve=_RESOLVE)
    if flags & os.O_PATH:
        return pinned
    try:
        mode = os.fstat(pinned).st_mode
        require(path, mode, stat.S_IFDIR if stat.S_ISDIR(mode) else stat.S_IFREG)
        with Guard("open", path):
            return os.open(f"/proc/self/fd/{pinned}", flags & ~os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    finally:
        os.close(pinned)


def open_straight(path: str, *, flags: int) -> int:
    """Open the absolute `path` of the host, of which no part may be a symbolic link: KernelError with ELOOP else.

    The caller closes the descriptor, and gives O_PATH unless opening can't block.
    """
    return openat2(libc.AT_FDCWD, path, flags, mode=0, resolve=NO_SYMLINKS)


def read(root: str | int, path: str, *, most: int) -> bytes:
    """The first `most` bytes of a regular file, found as `open_path` does."""
    fd = open_path(root, path)
    try:
        with Guard("read", path):
            require(path, os.fstat(fd).st_mode, stat.S_IFREG)
            return os.read(fd, most)
    finally:
        os.close(fd)
