# SPDX-License-Identifier: Apache-2.0
"""Files that must be whole or absent, and trees that must go without taking a mounted volume along.

Called by everything that keeps state in the run directory. No fsync: what lies there dies with the boot.
All functions raise KernelError (one that is a FileNotFoundError too when something is absent), or NoSpace
when a disk or quota is full.
"""

import errno
import os
import struct

from stage1.errors import KernelError
from stage1.linux import libc
from stage1.linux.libc import Guard
from stage1.linux.mount import mounts_below

_RESOLVE_NO_XDEV, _RESOLVE_NO_MAGICLINKS, _RESOLVE_NO_SYMLINKS = 1, 2, 4
_RESOLVE_IN_ROOT = 16
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_TAIL_BYTES = 65536
_DEEP = 48


def write_atomic(path: str, data: bytes, mode: int = 0o600) -> None:
    """Put `data` at `path` with permission bits `mode`: readers see the old file or the whole new one."""
    beside = f"{path}.{os.urandom(6).hex()}~"
    with Guard("write", path):
        try:
            _write_new(beside, data, mode)
            os.rename(beside, path)
        except BaseException:
            _unlink_if_there(beside)
            raise


def _write_new(path: str, data: bytes, mode: int) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.fchmod(fd, mode)
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]
    finally:
        os.close(fd)


def _unlink_if_there(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass


def read(path: str) -> bytes:
    """The whole content of `path`."""
    with Guard("read", path), open(path, "rb") as file:
        return file.read()


def tail(path: str, lines: int) -> str:
    """The last `lines` lines of `path`, from its last 64 KiB; bytes that are no UTF-8 are replaced."""
    with Guard("read", path), open(path, "rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - _TAIL_BYTES))
        text = file.read(_TAIL_BYTES).decode("utf-8", "replace")
    return "\n".join(text.splitlines()[-lines:]) if lines > 0 else ""


def forget_head(path: str, keep_bytes: int) -> None:
    """Free the space of all but the last `keep_bytes` of `path`; its length stays, zeros are read there.

    Safe while others append. See fallocate(2), FALLOC_FL_PUNCH_HOLE.
    """
    with Guard("open", path):
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        excess = os.fstat(fd).st_size - keep_bytes
        if excess > 0:
            how = libc.FALLOC_FL_PUNCH_HOLE | libc.FALLOC_FL_KEEP_SIZE
            libc.call("fallocate", fd, how, 0, excess, what=f"{path} punch {excess} bytes")
    finally:
        os.close(fd)


def make_dirs(path: str, mode: int) -> None:
    """Make `path` and what is missing above it; the directories made get `mode`, whatever the umask is."""
    if os.path.isdir(path):
        return
    make_dirs(os.path.dirname(path.rstrip("/")) or ".", mode)
    with Guard("mkdir", path):
        try:
            os.mkdir(path, mode)
            os.chmod(path, mode)
        except FileExistsError:
            if not os.path.isdir(path):
                raise


def open_beneath(root: int | str, path: str, *, flags: int = os.O_RDONLY, mode: int = 0) -> int:
    """Open `path` as a process chrooted to `root` (a directory's path or descriptor) would.

    Symbolic links, `..` and absolute targets stay inside, as openat2(2) RESOLVE_IN_ROOT promises. The caller
    closes the descriptor.
    """
    if isinstance(root, int):
        return _openat2(root, path, flags, mode, _RESOLVE_IN_ROOT | _RESOLVE_NO_MAGICLINKS)
    with Guard("open", root):
        root_fd = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return open_beneath(root_fd, path, flags=flags, mode=mode)
    finally:
        os.close(root_fd)


def open_straight(path: str, *, flags: int) -> int:
    """Open the absolute `path`, of which no part, nor the end, may be a symbolic link: ELOOP. The caller closes it."""
    return _openat2(libc.AT_FDCWD, path, flags, 0, _RESOLVE_NO_SYMLINKS)


def _openat2(dir_fd: int, path: str, flags: int, mode: int, resolve: int) -> int:
    how = struct.pack("=QQQ", flags | os.O_CLOEXEC, mode, resolve)
    what = f"{path} flags={flags:#x} resolve={resolve:#x}"
    return libc.syscall("openat2", libc.NR_OPENAT2, dir_fd, os.fsencode(path), how, len(how), what=what)


def remove_tree(path: str) -> None:
    """Remove `path` and all below it; fine when it is absent.

    Refuses, before removing anything, when a mount is at or below `path`; one that appears meanwhile is not
    entered either.
    """
    if not os.path.lexists(path):
        return
    if mounted := mounts_below(path):
        raise KernelError("remove_tree", errno.EBUSY, f"{mounted[0]} is still mounted; unmount it first")
    with Guard("remove", path):
        if os.path.islink(path) or not os.path.isdir(path):
            os.unlink(path)
            return
        _remove_directory(path)


def _remove_directory(path: str) -> None:
    parent, name = os.path.split(path.rstrip("/"))
    parent_fd = os.open(parent or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        top = _enter(parent_fd, name)
        try:
            while _empty(top, top, 0):
                pass
        finally:
            os.close(top)
        os.rmdir(name, dir_fd=parent_fd)
    finally:
        os.close(parent_fd)


def _enter(dir_fd: int, name: str) -> int:
    return _openat2(dir_fd, name, _DIRECTORY, 0, _RESOLVE_NO_XDEV | _RESOLVE_NO_SYMLINKS)


def _empty(dir_fd: int, top: int, depth: int) -> bool:
    """Remove what is in the directory; true when a directory was put into `top` and another round is due."""
    again = False
    with os.scandir(dir_fd) as entries:
        found = [(e.name, e.is_dir(follow_symlinks=False)) for e in entries]
    for name, is_dir in found:
        try:
            again |= _remove_entry(dir_fd, name, is_dir, top, depth)
        except FileNotFoundError:
            continue
    return again


def _remove_entry(dir_fd: int, name: str, is_dir: bool, top: int, depth: int) -> bool:
    if not is_dir:
        os.unlink(name, dir_fd=dir_fd)
        return False
    if depth >= _DEEP:
        # Neither our stack nor our descriptors may be exhausted by how deep a guest nests its directories.
        os.rename(name, f"{name[:200]}.{os.urandom(6).hex()}", src_dir_fd=dir_fd, dst_dir_fd=top)
        return True
    fd = _enter(dir_fd, name)
    try:
        again = _empty(fd, top, depth + 1)
    finally:
        os.close(fd)
    os.rmdir(name, dir_fd=dir_fd)
    return again
