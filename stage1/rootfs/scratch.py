# SPDX-License-Identifier: Apache-2.0
"""The disk that a pod's containers write to: a sparse file with an empty ext4. Called by the engine for
every pod.

mkfs.ext4 runs once per size; each pod gets a copy of that template, which has data for some hundred KiB
only. No journal: the disk dies with its VM, so there is nothing to recover. One that outlives its VM has one, which
the next VM's kernel replays: the host never reads what a guest wrote. No reserved blocks: the size is the quota.
"""

import errno
import fcntl
import os
import struct
from collections.abc import Callable, Iterator
from typing import NamedTuple

from stage1.errors import BadRequest, KernelError
from stage1.linux import beneath, files
from stage1.linux.flock import Lock
from stage1.linux.libc import Guard
from stage1.pod.model import DiskLimit
from stage1.rootfs import ext4, orphans, parted

LINK, GUEST_LINK = "scratch.img", "suspended.state"
"""Links in the pod's directory: to its disk, and to the file with its guest while it is suspended
(stage1/snapshot/load.py).
"""
_SMALLEST_BYTES = 1 << 20
_FICLONE, _FICLONERANGE = 0x40049409, 0x4020940D
_PROBE_BYTES = 1 << 16
"""Whole blocks, whatever their size: so much of a disk is shared to find out whether all of it could be."""
_BLOCK_BYTES = 4096
_MAGIC_AT, _MAGIC = 1024 + 56, b"\x53\xef"
_UUID_AT, _UUID_BYTES = 1024 + 104, 16
# Inode tables count as zeroed: the file is full of zeros anyway, and the guest must not write them once more.
_OPTIONS = ("-E", "lazy_itable_init=0,nodiscard")
_NO_JOURNAL, _JOURNAL = ("-O", "^has_journal,^resize_inode"), ("-O", "has_journal,^resize_inode", "-J", "size=4")


class Disk(NamedTuple):
    """The file `path`, of which the VMM's user and group `owner` is to be the only one who may open it; with a size of
    0 a directory. One that `is_lasting` may be there already, and stays; volumes on it may have `limits`.
    """

    path: str
    size_bytes: int = 0
    owner: int = 0
    is_lasting: bool = False
    limits: tuple[DiskLimit, ...] = ()


def add(disk: Disk, directory: str, *, template_dir: str) -> None:
    """Make the disk of the pod in `directory`, which gets a link to it. Undo: `remove`."""
    files.make_dirs(os.path.dirname(disk.path), 0o700)
    with beneath.Root(directory) as own:
        own.link(LINK, disk.path)
    if disk.is_lasting:
        _make_lasting(disk, template_dir)
    elif disk.size_bytes:
        make_scratch(disk.path, disk.size_bytes, template_dir=template_dir)
    else:
        os.mkdir(disk.path, 0o700)
        return
    with Guard("chown", disk.path):
        os.chown(disk.path, disk.owner, disk.owner)


def note(directory: str, link: str, *, path: str) -> None:
    """Write down where a file of the pod's is to be, before it is made: `LINK` or `GUEST_LINK`. Idempotent. Raises
    KernelError.
    """
    files.make_dirs(os.path.dirname(path), 0o700)
    with beneath.Root(directory) as own:
        try:
            own.link(link, path)
        except KernelError as error:
            if error.errno != errno.EEXIST:
                raise


def _make_lasting(disk: Disk, template_dir: str) -> None:
    """Unless it is there. It has its name when it is whole."""
    if os.path.lexists(disk.path):
        return
    new = f"{disk.path}.new"
    if disk.limits:
        parted.make(new, disk.size_bytes, limits=disk.limits)
    else:
        make_scratch(new, disk.size_bytes, template_dir=template_dir, has_journal=True)
    with Guard("rename", new):
        os.rename(new, disk.path)


def remove(directory: str) -> None:
    """Undo `add`. Idempotent. The link stays, and goes with the pod's directory. A lasting disk goes with the
    kubelet's directory of the pod.
    """
    if path := orphans.of_pod(directory, LINK, place="scratch"):
        files.remove_tree(path)


def forget_guest(directory: str) -> None:
    """Remove the file with the guest of a pod that was suspended. Idempotent. Raises KernelError."""
    if path := orphans.of_pod(directory, GUEST_LINK, place="scratch"):
        files.remove_tree(path)


def allocate(path: str) -> None:
    """Give the disk all the blocks that it can ever need, so that nothing else can take them. Raises NoSpace,
    KernelError.
    """
    with Guard("fallocate", path):
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.posix_fallocate(fd, 0, os.fstat(fd).st_size)
        finally:
            os.close(fd)


def make_scratch(path: str, size_bytes: int, *, template_dir: str, has_journal: bool = False) -> None:
    """Make `path`, mode 0600, a file of `size_bytes` (rounded up to 4 KiB) with an empty ext4 in it.

    `template_dir` (made when absent) keeps the templates. Raises BadRequest below 1 MiB, NoSpace,
    KernelError; no `path` is left then.
    """
    if size_bytes < _SMALLEST_BYTES:
        raise BadRequest(f"a scratch disk of {size_bytes} bytes is too small; give it {_SMALLEST_BYTES} or more")
    size = (size_bytes + 4095) & ~4095
    template = f"{template_dir}/ext4-{'journal-' if has_journal else ''}{size}.img"
    if not _is_whole(template, size):
        files.make_dirs(template_dir, 0o700)
        _make_template(template, size, has_journal=has_journal)
    copy_sparse(template, path)


def size(path: str) -> int:
    """Return the bytes of a disk, with its holes. Raises KernelError."""
    with Guard("read", path), open(path, "rb") as file:
        return os.fstat(file.fileno()).st_size


def uuid(path: str) -> str:
    """UUID of the file system on a disk that no guest has written to: that of the template it is a copy of. Raises
    KernelError.
    """
    with Guard("read", path), open(path, "rb") as file:
        return os.pread(file.fileno(), _UUID_BYTES, _UUID_AT).hex()


def _is_whole(template: str, size: int) -> bool:
    """Whether the template is one: a power cut may have left a part of it, where an earlier version made it."""
    try:
        fd = os.open(template, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        return os.fstat(fd).st_size == size and os.pread(fd, len(_MAGIC), _MAGIC_AT) == _MAGIC
    finally:
        os.close(fd)


def _make_template(template: str, size: int, *, has_journal: bool) -> None:
    with Lock(f"{template}.lock"):
        if _is_whole(template, size):
            return
        full, sparse = f"{template}.full", f"{template}.new"
        try:
            _format(full, size, has_journal=has_journal)
            # mkfs.ext4 allocates the inode tables, and writes zeros into those of a small disk.
            _copied(full, sparse, copy=_copy_without_zeros)
            files.sync(sparse)
            with Guard("rename", sparse):
                os.rename(sparse, template)
            files.sync(os.path.dirname(template))
        finally:
            for path in (full, sparse):
                files.unlink(path)


def _format(path: str, size: int, *, has_journal: bool) -> None:
    with Guard("write", path):
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.ftruncate(fd, size)
        finally:
            os.close(fd)
    options = (*_OPTIONS, *(_JOURNAL if has_journal else _NO_JOURNAL))
    ext4.make(path, options, what=f"a scratch disk of {size} bytes at {path}")


def copy_sparse(source: str, target: str, *, between: Callable[[], None] = lambda: None) -> None:
    """Copy a file without its holes; shares the data where the file system can. No `target` is left if
    this raises, as `between` may, which is called for each MiB.
    """
    _copied(source, target, copy=lambda read_fd, write_fd: _copy(read_fd, write_fd, between=between))


def _copied(source: str, target: str, *, copy: Callable[[int, int], None]) -> None:
    """Open both files for `copy`. No `target` is left if that raises."""
    with Guard("copy", f"{source} to {target}"):
        read_fd = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
        try:
            write_fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            try:
                copy(read_fd, write_fd)
            except BaseException:
                os.unlink(target)
                raise
            finally:
                os.close(write_fd)
        finally:
            os.close(read_fd)


def write_back(disk: str, near: str) -> bool:
    """Write what the page cache has of `disk` to its file system, if a copy in the directory `near` will share its
    blocks, which has to wait for that. Return whether it will. Raises KernelError.
    """
    with Guard("write back", disk):
        fd = os.open(disk, os.O_RDONLY | os.O_CLOEXEC)
        try:
            is_shared = _can_share(fd, near)
            if is_shared:
                os.fdatasync(fd)
        finally:
            os.close(fd)
    return is_shared


def _can_share(disk: int, near: str) -> bool:
    try:
        probe = os.open(near, os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    except OSError:  # a file system without such files has no shared blocks either; what else is wrong the copy finds
        return False
    try:
        fcntl.ioctl(probe, _FICLONERANGE, struct.pack("qQQQ", disk, 0, _PROBE_BYTES, 0))
    except OSError:
        return False
    finally:
        os.close(probe)
    return True


def _copy(read_fd: int, write_fd: int, *, between: Callable[[], None]) -> None:
    try:
        fcntl.ioctl(write_fd, _FICLONE, read_fd)
        return
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.EXDEV, errno.ENOTTY, errno.ENOSYS):
            raise
    os.ftruncate(write_fd, os.fstat(read_fd).st_size)
    for start, end in _data(read_fd):
        while start < end:
            between()
            data = os.pread(read_fd, min(end - start, 1 << 20), start)
            start += os.pwrite(write_fd, data, start)


def _copy_without_zeros(read_fd: int, write_fd: int) -> None:
    """Copy the blocks that have anything but zeros: what a template has is read and written for each pod."""
    os.ftruncate(write_fd, os.fstat(read_fd).st_size)
    for start, end in _data(read_fd):
        for at in range(start, end, _BLOCK_BYTES):
            block = os.pread(read_fd, _BLOCK_BYTES, at)
            if block.strip(b"\0"):
                os.pwrite(write_fd, block, at)


def _data(fd: int) -> Iterator[tuple[int, int]]:
    """The parts of the file that are no holes: where each begins and ends."""
    size, end = os.fstat(fd).st_size, 0
    while end < size:
        try:
            start = os.lseek(fd, end, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return
            raise
        end = os.lseek(fd, start, os.SEEK_HOLE)
        yield start, end
