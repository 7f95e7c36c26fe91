# SPDX-License-Identifier: Apache-2.0
"""Mounts that are seen at a second path, since a program has bound the tree that they are in. Called where something
can't be removed because of them, which is seldom: no start of a pod loads this.
"""

import os
from typing import NamedTuple

from stage1.linux import mount


def detach(place: str) -> bool:
    """Unmount what is mounted on `place`, or on a directory or file below it, as seen at any other path of the
    namespace: where a program has bound the host's whole tree, with all mounts. Return whether there was any.

    As long as there is, the kernel removes none of these directories and files (EBUSY).
    """
    copies = _copies(place)
    for copy in copies:
        if mount.is_mounted(copy):  # else it went with one above it
            mount.umount(copy, lazy=True)
    return bool(copies)


def _copies(place: str) -> list[str]:
    here = os.path.realpath(place)
    number = mount.number_at(here)
    with mount.open_table() as file:
        mounts = {line.split(b" ", 1)[0]: _Entry(*line.split(b" ", 5)[1:5]) for line in file}
    if number not in mounts:
        return []
    own, copies = mounts[number].place_of(os.fsencode(here)), []
    for one in mounts.values():
        above = mounts.get(one.parent)
        if above is None or above.device != mounts[number].device:
            continue
        point = os.fsencode(mount.unescape(one.point))
        if _is_at_or_below(above.place_of(point), own) and not _is_at_or_below(point, os.fsencode(here)):
            copies.append(os.fsdecode(point))
    return sorted(copies, key=len)


class _Entry(NamedTuple):
    """A line of the table: the parent's number, the device, the directory of it that is mounted, and the point."""

    parent: bytes
    device: bytes
    root: bytes
    point: bytes

    def place_of(self, path: bytes) -> bytes:
        """The place in the file system of `path`, which is seen in this mount."""
        root, point = (os.fsencode(mount.unescape(field)).rstrip(b"/") for field in (self.root, self.point))
        return root + path[len(point) :]


def _is_at_or_below(path: bytes, place: bytes) -> bool:
    return path == place or path.startswith(place.rstrip(b"/") + b"/")
