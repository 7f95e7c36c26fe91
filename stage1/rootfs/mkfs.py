# SPDX-License-Identifier: Apache-2.0
"""Runs mkfs.erofs, and explains its failures. Called in the confined process only, by `layerjob` and `mergejob`."""

import errno
import os
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager

from stage1.errors import KernelError, NoSpace, NotFound, PodError
from stage1.linux import feeding, process, supervise
from stage1.linux.libc import Guard
from stage1.rootfs import layout
from stage1.rootfs.corrupt import Corrupt
from stage1.rootfs.erofs import Image
from stage1.rootfs.limits import ELAPSED

_PACE = feeding.Pace(60.0 * ELAPSED, 5_000_000 / ELAPSED)
"""It has the limit of processor time of the process that runs it."""
_FULL_BELOW_BYTES = 1 << 20


def make(options: Sequence[str], *, digest: str, image: str, blobs: Sequence[str]) -> None:
    """Run mkfs.erofs on `blobs`, so that equal input gives equal bytes.

    Raises Corrupt, NoSpace, TimedOut, MemoryError.
    """
    with fed([*options, image, *blobs], digest=digest, image=image) as program:
        program.given = sum(map(os.path.getsize, blobs))  # it reads them by itself


@contextmanager
def fed(arguments: Sequence[str], *, digest: str, image: str) -> Iterator[feeding.Fed]:
    """Run mkfs.erofs with these last arguments on a tar that the block gives it. Raises as `make`, after the block."""
    argv = ["mkfs.erofs", "--quiet", "-T0", "--mkfs-time", "-U", layout.uuid_of(digest), *arguments]
    try:
        program = feeding.Fed(supervise.program(argv), _PACE)
    except KernelError as error:
        if error.errno == errno.ENOENT:
            raise NotFound("there is no mkfs.erofs program; install erofs-utils") from None
        raise
    with closing(program):
        yield program
        _require_success(program.finish(), image)
    with Guard("read", image), Image(image):
        pass


def _require_success(ended: supervise.Ended, image: str) -> None:
    code, last = ended
    # It also ends well after an error in the middle of a tar, and the rest of the layer is then missing.
    if code == 0 and "<E>" not in last:
        return
    if code == 128 + process.SIGKILL:
        raise NoSpace("mkfs.erofs was killed while it read a layer: it took too much processor time, or the host is "
                      "out of memory; use another image")  # fmt: skip
    if code > 128:
        raise Corrupt(f"mkfs.erofs could not read a layer and ended by signal {code - 128}; push the image again")
    raise _failure(image, last or f"exit status {code}")


def _failure(image: str, reason: str) -> PodError | MemoryError:
    directory = os.path.dirname(image)
    free = os.statvfs(directory)
    free_bytes = free.f_bavail * free.f_frsize
    if os.strerror(errno.ENOMEM) in reason:
        return MemoryError()
    # A full disk reads as "Bad message" there.
    if "No space left" in reason or free_bytes < _FULL_BELOW_BYTES or not free.f_favail:
        return NoSpace(f"the disk is full ({free_bytes} bytes free) while an image was written; free some space")
    return Corrupt(f"mkfs.erofs could not read a layer: {reason}; push the image again")
