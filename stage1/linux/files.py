# SPDX-License-Identifier: Apache-2.0
"""Files that must be whole or absent, and trees that must go without taking a mounted volume along.

Called by everything that keeps state in the run directory, with paths that only the host's root can change: what a
guest or a VMM can write is reached by `beneath` alone. What lies in the run directory dies with the boot and is not
synced; what must outlive a power cut is written with `durable`, or given to `sync`.
All functions raise KernelError (one that is a FileNotFoundError too when something is absent), or NoSpace
when a disk or quota is full.
"""

import errno
import os
import stat

from stage1.errors import KernelError
from stage1.linux import libc, removal
from stage1.linux.libc import Guard
from stage1.linux.mount import mounts_below

_TAIL_BYTES = _READ_BYTES = 65536
_PAGE_BYTES, _MOST_BLOCK_BYTES = 4096, 1 << 20
_SYNC_FILE_RANGE_WRITE = 2
_KINDS = {
    stat.S_IFREG: "a regular file",
    stat.S_IFDIR: "a directory",
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a character device",
    stat.S_IFBLK: "a block device",
}


class NotPlain(KernelError):
    """Something else is where a regular file or a directory must be, or a link or mount is on the way there."""

    grpc_code = "FAILED_PRECONDITION"

    def __init__(self, path: str, why: str, *, number: int = errno.EINVAL) -> None:
        super().__init__("open", number, path)
        self.args = (f"{path} {why}; remove it",)


def kind(mode: int) -> str:
    """The kind of file for an st_mode, with an article."""
    return _KINDS.get(stat.S_IFMT(mode), "of an unknown kind")


def no_directory(path: str, *, number: int) -> NotPlain:
    """The error of what is at `path`, where a directory must be."""
    what = kind(os.lstat(path).st_mode) if os.path.lexists(path) else "absent"
    return NotPlain(path, f"is {what}, but must be {kind(stat.S_IFDIR)}", number=number)


def write_atomic(path: str, data: bytes, mode: int = 0o600, *, durable: bool = False) -> None:
    """Put `data` at `path` with permission bits `mode`: readers see the old file or the whole new one.

    With `durable` so does who comes after a power cut, and from the return of this function on, the new one.
    """
    temporary = f"{path}.{os.urandom(6).hex()}~"
    with Guard("write", path):
        try:
            _write_new(temporary, data, mode)
            if durable:
                sync(temporary)
            os.rename(temporary, path)
        except BaseException:
            unlink(temporary)
            raise
    if durable:
        sync(os.path.dirname(path))


def add_line(path: str, line: bytes, *, most: int, durable: bool = False) -> bool:
    """Write `line` into the room of the file at `path`: behind the last byte that is not zero of its first `most` ones.
    False, and nothing is changed, where it has no room, more names than one, or does not exist.

    Who reads meanwhile, or after a kill, may see a part of the line, with zeros or without its end. With `durable`
    all of it outlives a power cut, without a commit of the file system's journal.
    """
    try:
        with Guard("open", path):
            flags = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | (os.O_DSYNC if durable else 0)
            fd = os.open(path, flags)
    except FileNotFoundError:
        return False
    try:
        with Guard("write", path):
            known = os.pread(fd, most, 0)
            lines = known.rstrip(b"\0")
            data = b"%b%b\n" % (b"" if lines.endswith(b"\n") else b"\n", line)
            fits = os.fstat(fd).st_nlink == 1 and len(lines) + len(data) <= len(known)
            return fits and os.pwrite(fd, data, len(lines)) == len(data)
    finally:
        os.close(fd)


def begin_sync(path: str) -> None:
    """Let the disk begin to write what is in the file, of which a later `sync` then waits for the rest."""
    with Guard("open", path):
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        libc.call("sync_file_range", fd, 0, 0, _SYNC_FILE_RANGE_WRITE, what=path)
    finally:
        os.close(fd)


def sync(path: str) -> None:
    """Have what is written in the file `path`, or the names in that directory, outlive a power cut."""
    with Guard("fsync", path):
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def _write_new(path: str, data: bytes, mode: int) -> None:
    fill(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), data, mode)


def fill(fd: int, data: bytes, mode: int) -> None:
    """Write all of `data` to the new file `fd`, which gets the permission bits `mode` and is closed. Raises OSError."""
    try:
        os.fchmod(fd, mode)
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]
    finally:
        os.close(fd)


def unlink(path: str) -> None:
    """Remove the file or link. Idempotent. Raises KernelError."""
    try:
        with Guard("unlink", path):
            os.unlink(path)
    except FileNotFoundError:
        pass


def read(path: str) -> bytes:
    """The whole content of `path`."""
    with Guard("read", path):
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            parts = []
            while part := os.read(fd, _READ_BYTES):
                parts.append(part)
            return b"".join(parts)
        finally:
            os.close(fd)


def tail(fd: int, lines: int) -> str:
    """The last `lines` lines of the open file, from its last 64 KiB; bytes that are no UTF-8 are replaced."""
    with Guard("read", f"descriptor {fd}"):
        data = os.pread(fd, _TAIL_BYTES, max(0, os.fstat(fd).st_size - _TAIL_BYTES))
    return "\n".join(data.decode("utf-8", "replace").splitlines()[-lines:]) if lines > 0 else ""


def forget_head(fd: int, keep_bytes: int) -> None:
    """Free the space of all but the last `keep_bytes` of the open file; its length stays, zeros are read there.

    Safe while others append. See fallocate(2), FALLOC_FL_PUNCH_HOLE.
    """
    forget_before(fd, os.fstat(fd).st_size - keep_bytes)


def forget_before(fd: int, offset: int) -> None:
    """The same for all whole pages before `offset`."""
    excess = offset & ~(_PAGE_BYTES - 1)
    if excess > 0:
        how = libc.FALLOC_FL_PUNCH_HOLE | libc.FALLOC_FL_KEEP_SIZE
        libc.call("fallocate", fd, how, 0, excess, what=f"descriptor {fd} punch {excess} bytes")


def forget_all(path: str) -> None:
    """Free the space of the file; its length stays. Raises KernelError, also where the file system can't."""
    with Guard("open", path):
        fd = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        # Beyond the end, since only whole blocks are freed.
        how, size = libc.FALLOC_FL_PUNCH_HOLE | libc.FALLOC_FL_KEEP_SIZE, os.fstat(fd).st_size + _MOST_BLOCK_BYTES
        libc.call("fallocate", fd, how, 0, size, what=path)
    finally:
        os.close(fd)


def existing(path: str) -> str:
    """The absolute `path`, or the nearest directory above it that exists."""
    path = os.path.abspath(path)
    while not os.path.isdir(path):
        path = os.path.dirname(path)
    return path


def make_dirs(path: str, mode: int) -> None:
    """Make `path` and its missing parents; the directories made get `mode`, independent of the umask. Raises NotPlain
    when something else is there, NoSpace, KernelError.
    """
    if os.path.isdir(path):
        return
    make_dirs(os.path.dirname(path.rstrip("/")) or ".", mode)
    with Guard("mkdir", path):
        try:
            os.mkdir(path, mode)
            os.chmod(path, mode)
        except FileExistsError as error:
            if not os.path.isdir(path):
                raise no_directory(path, number=errno.EEXIST) from error


def remove_tree(path: str) -> None:
    """Remove `path` and all below it; fine when it is absent.

    Refuses, before removing anything, when a mount is at or below `path`; one that appears meanwhile is not
    entered either.
    """
    is_file = os.path.isfile(path)  # on which the kernel itself refuses to remove a mount
    if not is_file and os.path.lexists(path) and (mounted := mounts_below(path)):
        raise KernelError("remove_tree", errno.EBUSY, f"{mounted[0]} is still mounted; unmount it first")
    remove_unmounted(path)


def remove_unmounted(path: str) -> None:
    """Like `remove_tree`, for where no mounts are left, without a search in the table of all. One that is there
    nevertheless is not entered: raises KernelError (EBUSY, EXDEV), after a part was removed.
    """
    if not os.path.lexists(path):
        return
    with Guard("remove", path):
        parent, name = os.path.split(path.rstrip("/"))
        parent_fd = os.open(parent or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            removal.remove_entry(parent_fd, name)
        finally:
            os.close(parent_fd)
