# SPDX-License-Identifier: Apache-2.0
"""Copies a directory of an image into a new volume: modes, owners, links, times, extended attributes. Called by make.

Goes by descriptors and follows no link, for the image is not trusted. Devices and sockets are left out.
"""

import os
import stat
from typing import NamedTuple

from stage1.errors import BadRequest
from stage1.linux.libc import Guard

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
_MOST_DEEP = 128
_CHUNK = 1 << 24


class _Copy(NamedTuple):
    """One copy. `top` is the directory that is filled; `first` maps a file with several names to its first path below
    it.
    """

    top: int
    first: dict[tuple[int, int], str]


def copy_tree(source: int, target: int) -> None:
    """Put what is in the directory `source` into the empty directory `target`, which also gets its mode and owner. A
    file with several names is one file again: else a small image could fill the host's disk by names.

    Both are descriptors. Raises KernelError, NoSpace, and BadRequest when directories are nested too deeply.
    """
    with Guard("copy", "a directory of the image into a new volume"):
        _copy_directory(source, target, copy=_Copy(target, {}), path="")


def _copy_directory(source: int, target: int, *, copy: _Copy, path: str) -> None:
    if path.count("/") > _MOST_DEEP:
        raise BadRequest(f"directories of the image are nested more than {_MOST_DEEP} deep; give it a volume there")
    with os.scandir(source) as entries:
        names = sorted(entry.name for entry in entries)
    for name in names:
        _copy_entry(name, source, target=target, copy=copy, path=f"{path}{name}")
    _copy_attributes(source, target)


def _copy_entry(name: str, source: int, *, target: int, copy: _Copy, path: str) -> None:
    status = os.stat(name, dir_fd=source, follow_symlinks=False)
    if stat.S_ISDIR(status.st_mode):
        os.mkdir(name, 0o700, dir_fd=target)
        with _Opened(name, source, flags=_DIRECTORY) as read, _Opened(name, target, flags=_DIRECTORY) as write:
            _copy_directory(read, write, copy=copy, path=f"{path}/")
    elif stat.S_ISREG(status.st_mode):
        first = copy.first.setdefault((status.st_dev, status.st_ino), path) if status.st_nlink > 1 else path
        if first != path:
            os.link(first, name, src_dir_fd=copy.top, dst_dir_fd=target, follow_symlinks=False)
            return
        with _Opened(name, source, flags=_FILE) as read, _Opened(name, target, flags=_NEW) as write:
            while os.sendfile(write, read, None, _CHUNK):
                pass
            _copy_attributes(read, write)
    elif stat.S_ISLNK(status.st_mode):
        os.symlink(os.readlink(name, dir_fd=source), name, dir_fd=target)
        os.chown(name, status.st_uid, status.st_gid, dir_fd=target, follow_symlinks=False)
    elif stat.S_ISFIFO(status.st_mode):
        os.mkfifo(name, 0o600, dir_fd=target)
        os.chown(name, status.st_uid, status.st_gid, dir_fd=target, follow_symlinks=False)
        os.chmod(name, stat.S_IMODE(status.st_mode), dir_fd=target)


class _Opened:
    """`with _Opened(name, directory, flags=...) as fd:`"""

    def __init__(self, name: str, directory: int, *, flags: int) -> None:
        self._fd = os.open(name, flags, 0o600, dir_fd=directory)

    def __enter__(self) -> int:
        return self._fd

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)


def _copy_attributes(source: int, target: int) -> None:
    status = os.fstat(source)
    os.fchown(target, status.st_uid, status.st_gid)
    os.fchmod(target, stat.S_IMODE(status.st_mode))
    for name in os.listxattr(source):
        if name.startswith(("user.", "security.capability")):
            os.setxattr(target, name, os.getxattr(source, name))
    os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))
