# SPDX-License-Identifier: Apache-2.0
"""A running pod's guest and disk, written into a directory of the caller's, and the checks of such a directory before
another pod begins with it. Called by the daemon in worker threads.

`stage1.saved` writes and reads the files, and `rootfs.checkpoint` knows their paths; here they get digests. The
manifest's other content is not known here.
"""

import os
from typing import NamedTuple

from stage1 import machine, saved
from stage1.engine import Host
from stage1.errors import BadRequest, WrongState
from stage1.pod.model import Pod
from stage1.rootfs.checkpoint import DISK, GUEST, MANIFEST, File, Search, examined
from stage1.rootfs.flat import flatten
from stage1.vm.template_key import identity
from stage1.vm.window import Placed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from stage1.rootfs.checkpoint import Awaited
    from stage1.rootfs.share import ImageFiles
    from stage1.suspended import Piece


class Written(NamedTuple):
    """The result of `save`, and what it was made from. The VM was stopped for `stopped_s`."""

    manifest: saved.Manifest
    guest: File
    disk: File
    stopped_s: float


def save(
    directory: str, pod: Pod, *, host: Host, images: "Mapping[str, ImageFiles]", target: "tuple[str, Awaited]"
) -> Written:
    """Write guest and disk into the directory `target[0]`, after `rootfs.checkpoint.begin` and while `target[1]`
    returns that it is still wanted; the guest runs when this returns or raises.

    Raises TimedOut when it is not awaited any more, NoSpace, VmFailed, KernelError.
    """
    output, is_awaited = target
    manifest = saved.describe(directory, pod, host=host, images=images)
    disk = machine.vm_spec(pod, host, directory=directory).scratch
    stopped_s = saved.take(directory, output, disk=disk, is_awaited=is_awaited)
    return Written(manifest, File(), File(size_bytes=int(bool(disk))), stopped_s)


def measure(written: Written, output: str, *, is_awaited: "Awaited") -> Written:
    """Return the checkpoint with the digests of its files, for which the guest need not stand still. Raises TimedOut,
    KernelError.
    """
    disk = examined(f"{output}/{DISK}", is_awaited) if written.disk.size_bytes else File()
    return written._replace(guest=examined(f"{output}/{GUEST}", is_awaited), disk=disk)


def check(place: str, *, guest: File, disk: File, title: str = "", link_key: bytes = b"") -> None:
    """Raise BadRequest unless both files are what they were, and the guest has `link_key` in its memory: it would never
    answer who knows another one. Or KernelError. People know the place as `title`.
    """
    search = Search(link_key)
    for name, was in ((GUEST, guest), (DISK, disk)):
        path, shown = f"{place}/{name}", f"{title or place}/{name}"
        if was == File():
            if os.path.lexists(path):
                raise BadRequest(f"{shown} is not part of the checkpoint; remove it, or take another checkpoint")
            continue
        try:
            now = examined(path, visit=search if name == GUEST else bool)
        except FileNotFoundError:
            raise BadRequest(f"{shown} is missing, so the checkpoint can't be restored; take another one") from None
        if now != was:
            raise BadRequest(
                f"{shown} has {now.size_bytes} bytes of digest {now.sha256[:12]}, and the manifest has "
                f"{was.size_bytes} of {was.sha256[:12]}: it was changed or damaged; take another checkpoint"
            )
    if not search.is_there:
        raise BadRequest(
            f"{title or place}/{MANIFEST} has a link_key that the guest does not have: it was changed or damaged; take "
            "another one"
        )


def located(
    placed: "Sequence[Placed]", images: "Mapping[str, ImageFiles]", *, was: "Sequence[tuple[int, int, str]]"
) -> "tuple[Piece, ...]":
    """The files of `images` where they lie in the window, which must be those of before (offset, bytes, identity).
    Their paths are ours. Raises WrongState when they are others, Corrupt, KernelError.
    """
    pieces = []
    for place in placed:
        for path, offset, size in flatten(images[place.name]):
            pieces.append((path, place.offset + offset, size, identity(path)))
    if sorted((offset, size, mark) for _, offset, size, mark in pieces) != sorted(was):
        raise WrongState(
            "an image of the checkpoint was pulled or merged again since, so its guest would read another file; take "
            "another checkpoint"
        )
    return tuple(pieces)
