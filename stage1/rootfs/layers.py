# SPDX-License-Identifier: Apache-2.0
"""One layer, as a registry stores it, to one erofs blob named after its diff id.

Called by the pull, from a thread. A blob is built beside and renamed into place, so whoever sees it sees a
whole one; two pulls of one layer wait for each other and convert it once.
"""

import errno
import os
from typing import NamedTuple

from stage1.errors import KernelError, NoSpace, NotFound, PodError
from stage1.linux import process
from stage1.linux.flock import Lock
from stage1.linux.libc import Guard
from stage1.rootfs import facts, layout
from stage1.rootfs.blob import Blob, never, unpack
from stage1.rootfs.corrupt import Corrupt
from stage1.rootfs.erofs import Image

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_BASE_TIMEOUT_S = 60.0
_BYTES_PER_S = 5_000_000
_LAYER = ("--tar=f", "--aufs", "-Enoinline_data")
_FULL_BELOW_BYTES = 1 << 20


class ImageFiles(NamedTuple):
    """What an image consists of on disk, as absolute paths."""

    id: str
    layers: tuple[str, ...]
    """The erofs blobs, lowest first, in the order in which `merged` refers to them."""
    merged: str
    config: str


class Place(NamedTuple):
    """Where layers are kept and made. `work_dir` is the caller's own, on the same file system."""

    layers_dir: str
    work_dir: str
    stop: "Callable[[], bool]" = never
    """Asked now and then; true ends the work with `Stopped`."""


def convert(blob: Blob, place: Place) -> str:
    """Make the erofs blob of a layer unless it is there; returns its path.

    Raises Corrupt (digests, gzip, tar), NoSpace, TimedOut, Stopped.
    """
    layers_dir = place.layers_dir
    path = layout.layer_path(layers_dir, blob.diff_id)
    if os.path.exists(path):
        return path
    lock = f"{layers_dir}/{layout.hex_of(blob.diff_id)}.lock"
    with Lock(lock):
        try:
            if not os.path.exists(path):
                _convert(blob, place)
        finally:
            # A waiter and a newcomer may now both convert; the rename makes that mere waste.
            _remove(lock)
    return path


def _convert(blob: Blob, place: Place) -> None:
    beside = f"{place.work_dir}/{layout.hex_of(blob.diff_id)}"
    tar, image = f"{beside}.tar", f"{beside}.erofs"
    try:
        unpack(blob, tar, stop=place.stop)
        found = facts.complete(tar)
        make(_LAYER, digest=blob.diff_id, image=image, sources=[tar])
        facts.store(layout.facts_path(place.layers_dir, blob.diff_id), found)
        with Guard("rename", image):
            os.rename(image, layout.layer_path(place.layers_dir, blob.diff_id))
    finally:
        _remove(tar)
        _remove(image)


def make(options: "Sequence[str]", *, digest: str, image: str, sources: "Sequence[str]") -> None:
    """Run mkfs.erofs on `sources` so that equal input gives equal bytes; no `image` is left when this
    raises.
    """
    argv = [
        "mkfs.erofs",
        "--quiet",
        "-T0",
        "--mkfs-time",
        "-U",
        layout.uuid_of(digest),
        *options,
        image,
        *sources,
    ]
    timeout_s = _BASE_TIMEOUT_S + sum(os.path.getsize(s) for s in sources) / _BYTES_PER_S
    try:
        _run(argv, image, timeout_s=timeout_s)
        with Guard("read", image), Image(image):
            pass
    except BaseException:
        # It leaves a file of 2 TiB apparent size.
        _remove(image)
        raise


def _run(argv: "Sequence[str]", image: str, *, timeout_s: float) -> None:
    try:
        result = process.run(argv, timeout_s=timeout_s)
    except KernelError as error:
        if error.errno == errno.ENOENT:
            raise NotFound("there is no mkfs.erofs program; install erofs-utils") from None
        raise
    if result.code == 0:
        return
    text = (result.stderr or result.stdout).decode("utf-8", "replace").strip()
    reason = text.splitlines()[-1] if text else f"exit status {result.code}"
    raise _failure(image, reason)


def _failure(image: str, reason: str) -> PodError:
    directory = os.path.dirname(image)
    free = os.statvfs(directory)
    free_bytes = free.f_bavail * free.f_frsize
    # A full disk reads as "Bad message" there.
    if "No space left" in reason or free_bytes < _FULL_BELOW_BYTES or not free.f_favail:
        return NoSpace(f"{directory} is full ({free_bytes} bytes free) while an image was written; free some space")
    return Corrupt(f"mkfs.erofs could not read a layer: {reason}; push the image again")


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
