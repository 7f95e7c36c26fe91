# SPDX-License-Identifier: Apache-2.0
"""The directory of a checkpoint, which is its caller's, and the files in it. Called by `stage1.snapshot`, by the
daemon, and when a pod is removed.

A link in the pod's directory leads to the directory while a checkpoint is being written there, from before its first
file until it is complete: the manifest comes last, by a rename. After a kill, a process that finds the link removes the
files (`abandon`).
"""

import errno
import os
import stat
from collections.abc import Callable
from hashlib import sha256
from typing import NamedTuple

from stage1.errors import AlreadyExists, BadRequest, KernelError, NotFound, TimedOut
from stage1.linux import beneath, files
from stage1.linux.libc import Guard

Awaited = Callable[[], bool]
Visitor = Callable[[bytes], object]


GUEST, DISK, MANIFEST = "guest", "disk", "manifest.json"
"""Memory and devices, as the VMM writes them; the pod's disk; and what they are."""
LINK = "checkpoint"
"""The link in the pod's directory to the directory that a checkpoint is being written to."""
_BLOCK_BYTES = 1 << 16
_ZEROS = bytes(_BLOCK_BYTES)


class File(NamedTuple):
    """One of a checkpoint's: its length, and the digest of what is in it (`digest`), empty when there is no file."""

    size_bytes: int = 0
    sha256: str = ""


def begin(directory: str, output: str) -> None:
    """The pod in `directory` is about to be written to `output`, a directory of ours that is empty; the file for its
    guest is made.

    Undo: `abandon`, until it is sealed. Raises BadRequest, NotFound or AlreadyExists for another place, NoSpace,
    KernelError; nothing is left then.
    """
    check_directory(output)
    with beneath.Root(output) as place:
        if there := place.names(most=1):
            raise AlreadyExists(f"{output} is not empty: it has {there[0]}; give an empty directory for the checkpoint")
    abandon(directory)
    with beneath.Root(directory) as own:
        own.link(LINK, output)
        try:
            make(f"{output}/{GUEST}")
        except BaseException as error:
            own.unlink(LINK)  # nothing that is there is ours
            if isinstance(error, KernelError) and error.errno == errno.EEXIST:
                raise AlreadyExists(f"{output} is another checkpoint's; give an empty directory") from None
            raise


def spelled(path: str) -> str:
    """The absolute path without doubled and closing slashes and `/./`; another one as it is, which is refused."""
    parts = [part for part in path.split("/") if part not in ("", ".")]
    return "/" + "/".join(parts) if path.startswith("/") else path


def check_directory(output: str) -> None:
    """Raise BadRequest unless it is the path of a directory that is ours alone, NotFound, KernelError."""
    if not os.path.isabs(output) or os.path.normpath(output) != output:
        raise BadRequest(f"{output!r} can't be the directory of a checkpoint; give an absolute path without `..`")
    try:
        with Guard("examine", output):
            status = os.lstat(output)
    except FileNotFoundError:
        raise NotFound(f"{output} does not exist; give the directory of a checkpoint") from None
    if not stat.S_ISDIR(status.st_mode):
        raise BadRequest(f"{output} is {files.kind(status.st_mode)}; give the directory of a checkpoint")
    if status.st_uid != os.geteuid() or status.st_mode & 0o022:
        raise BadRequest(
            f"{output} can be written to by others than user {os.geteuid()}, and a checkpoint has the pod's secrets; "
            "give a directory of mode 0700"
        )


def read_manifest(path: str, *, most: int) -> bytes:
    """The content of a checkpoint's manifest. Raises NotFound, BadRequest if it is too long, KernelError."""
    try:
        with beneath.Root(path) as place:
            return place.read(MANIFEST, most=most, ours=True)
    except FileNotFoundError:
        raise NotFound(f"{path} has no {MANIFEST}, so it is not a checkpoint, or an incomplete one") from None
    except KernelError as error:
        if error.errno != errno.EFBIG:
            raise
        raise BadRequest(
            f"{path}/{MANIFEST} is longer than {most} bytes, so it does not belong to a checkpoint"
        ) from None


def make(path: str) -> None:
    """An empty file that only root can open. Raises KernelError when anything is there, NoSpace."""
    with Guard("make", path):
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))


def seal(directory: str, output: str, *, manifest: bytes, is_awaited: Awaited) -> None:
    """The checkpoint is whole when this returns, after a power cut too. Raises TimedOut, NoSpace, KernelError; it is to
    be abandoned then.
    """
    with beneath.Root(output) as place:
        there = [name for name in (GUEST, DISK) if place.exists(name)]
    for name in there:
        files.sync(f"{output}/{name}")
    files.write_atomic(f"{output}/{MANIFEST}", manifest, durable=True)
    require(is_awaited)
    with beneath.Root(directory) as own:
        own.unlink(LINK)


def abandon(directory: str) -> None:
    """Remove what there is of a checkpoint that is not whole; idempotent. It must not be in the making.

    Raises KernelError.
    """
    try:
        with beneath.Root(directory) as own:
            if output := own.read_link(LINK):
                _empty(output)
            own.unlink(LINK)
    except FileNotFoundError:  # the pod's directory is gone
        pass


def _empty(output: str) -> None:
    try:
        with beneath.Root(output) as place:
            for name in place.names():
                if name in (MANIFEST, GUEST, DISK) or (name.startswith(f"{MANIFEST}.") and name.endswith("~")):
                    place.unlink(name)
    except FileNotFoundError:  # whose it is has removed it
        pass


class Search:
    """A visitor of a file's blocks, in order: whether `key` is in the file."""

    def __init__(self, key: bytes) -> None:
        self.is_there = not key
        self._key, self._last = key, b""

    def __call__(self, block: bytes) -> None:
        """Search the next block, and its border to the one before."""
        if not self.is_there:
            self.is_there = self._key in block or self._key in self._last + block[: len(self._key)]
            self._last = block[1 - len(self._key) :]


def examined(path: str, is_awaited: Awaited = lambda: True, *, visit: Visitor = bool) -> File:
    """The length and digest of the file, which may be another user's; `visit` is called with its blocks. Raises
    TimedOut if it is not awaited any more, NotPlain or BadRequest for what is no file of ours alone, KernelError.
    """
    directory, name = os.path.split(path)
    with beneath.Root(directory) as place:
        fd = place.open(name)  # a FIFO would wait for ever
    try:
        status = os.fstat(fd)
        if status.st_uid != os.geteuid() or status.st_mode & 0o022:
            raise BadRequest(
                f"{path} can be written to by others than user {os.geteuid()}, so it could change after it was "
                "verified; give it mode 0600"
            )
        return File(status.st_size, digest(fd, is_awaited, visit=visit))
    finally:
        os.close(fd)


def digest(descriptor: int, is_awaited: Awaited = lambda: True, *, visit: Visitor = bool) -> str:
    """SHA-256 over the blocks of 64 KiB in which a byte is not 0, each behind its number (8 bytes, big endian): all
    copies have the same, whatever holes they have. `visit` is called with these blocks. Raises as `examined`.
    """
    total, end, size = sha256(), 0, os.fstat(descriptor).st_size
    with Guard("read", "a file of a checkpoint"):
        while end < size:
            start, hole = _data_from(descriptor, end, size=size)
            for number in range(start // _BLOCK_BYTES, -(-hole // _BLOCK_BYTES)):
                require(is_awaited)
                block = os.pread(descriptor, _BLOCK_BYTES, number * _BLOCK_BYTES)
                if block != _ZEROS[: len(block)]:
                    total.update(number.to_bytes(8, "big") + block)
                    visit(block)
            end = max(-(-hole // _BLOCK_BYTES) * _BLOCK_BYTES, end + 1)
    return total.hexdigest()


def _data_from(descriptor: int, offset: int, *, size: int) -> tuple[int, int]:
    """The next range of data, and the hole after it; none at the end."""
    try:
        start = os.lseek(descriptor, offset, os.SEEK_DATA)
        return start, os.lseek(descriptor, start, os.SEEK_HOLE)
    except OSError as error:
        if error.errno != errno.ENXIO:
            raise
        return size, size


def require(is_awaited: Awaited) -> None:
    """Raise TimedOut when a checkpoint is not awaited any more."""
    if not is_awaited():
        raise TimedOut("the checkpoint was cancelled, since its caller's deadline has passed; allow more time")
