# SPDX-License-Identifier: Apache-2.0
"""The medium of a QEMU guest's disk for images: which files lie where, changed through the monitor while the VM runs.

Called by `mapping`, one call at a time for each pod, and by `suspended`. What lies where is what QEMU has descriptors
for: each is a set of its own, named after its place. Of those and of zeros between them a new medium is made (a VMDK of
flat extents, the one kind by which QEMU joins files), and put in the place of the old one, which has the same size: the
guest notices nothing. It reads nothing but these files, since neither it nor QEMU has a path to anything else.
"""

import os
import socket
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from stage1.errors import KernelError, VmFailed
from stage1.linux import beneath
from stage1.linux.libc import Guard
from stage1.vm.monitor import Monitor, Refused, whole
from stage1.vm.spec import QMP

LIMIT_S = 20.0
SECTOR = 512
EMPTY = "empty"
"""QEMU's name for the medium that the disk begins with."""
_DEVICE = "/machine/peripheral/window"
_NAMES = ("window-a", "window-b")
_FILL = "zeros"
_MOST_SETS, _MOST_WORD = 16384, 64
_MOST_BYTES = 1 << 22
"""Of answers: one about descriptors has a hundred bytes for each layer of each image."""
_HEAD = """# Disk DescriptorFile
version=1
CID=fffffffe
parentCID=ffffffff
createType="twoGbMaxExtentFlat"

# Extent description
"""


class Extent(NamedTuple):
    """A file that QEMU has as the set of descriptors `number`: `size` bytes at `offset` of the disk, whole sectors."""

    offset: int
    size: int
    number: int

    @property
    def end(self) -> int:
        """The first byte behind the file."""
        return self.offset + self.size


def connected(directory: str, *, limit_s: float = LIMIT_S) -> Monitor:
    """The monitor of the pod's VM, ready for commands; a context. Raises VmFailed."""
    peer = socket.socket(socket.AF_UNIX)
    try:
        peer.settimeout(limit_s)
        with beneath.Socket(f"{directory}/{QMP}") as address:
            peer.connect(address)
    except (OSError, KernelError) as error:
        peer.close()
        raise VmFailed(f"the VMM does not answer at {directory}/{QMP}: {error}") from None
    monitor = Monitor(peer.detach(), limit_s=limit_s, most_bytes=_MOST_BYTES)
    try:
        monitor.run("qmp_capabilities")
    except BaseException:
        monitor.__exit__()
        raise
    return monitor


def add(monitor: Monitor, pieces: Sequence[tuple[str, int, int]], *, disk_bytes: int) -> None:
    """Put the files (path, offset on the disk, bytes) on the disk. Raises VmFailed, KernelError; then they may be there
    in part, and `remove` takes them away.
    """
    for path, offset, size in pieces:
        with Guard("open", path):
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            monitor.add_file(fd, f"{offset} {size}")
        finally:
            os.close(fd)
    _exchange(monitor, _extents(monitor), disk_bytes=disk_bytes)


def remove(monitor: Monitor, offset: int, *, size: int, disk_bytes: int) -> None:
    """Take away what lies in that range. Idempotent. Raises VmFailed, KernelError."""
    there = _extents(monitor)
    gone = [one for one in there if offset <= one.offset < offset + size]
    if gone:
        _exchange(monitor, [one for one in there if one not in gone], disk_bytes=disk_bytes)
    for one in gone:
        monitor.run("remove-fd", {"fdset-id": one.number})


def take_out(monitor: Monitor) -> None:
    """Let the disk be without its medium, which blocks saving; the VM must be stopped. Undo: `put_back`."""
    drive = {"path": _DEVICE, "property": "drive"}
    if monitor.run("qom-get", drive) != EMPTY:  # QEMU aborts when it gets the medium that it has
        monitor.run("qom-set", {**drive, "value": EMPTY})
    for name in _NAMES:
        _forget(monitor, name)


def put_back(monitor: Monitor, *, disk_bytes: int) -> None:
    """Undo `take_out`; idempotent."""
    if extents := _extents(monitor):
        _exchange(monitor, extents, disk_bytes=disk_bytes)


def described(extents: Iterable[Extent], *, fill: int, disk_bytes: int) -> str:
    """The medium as a VMDK: the extents where they belong, and between them pieces of the zeros `fill`. Raises VmFailed
    when one lies over another, or not on the disk.
    """
    lines, end = [], 0
    for one in sorted(extents):
        if one.offset < end or one.end > disk_bytes or (one.offset | one.size) % SECTOR or one.size <= 0:
            raise VmFailed(f"{one} can't be on a disk of {disk_bytes} bytes after {end}")
        lines += [*_line(fill, one.offset - end), *_line(one.number, one.size)]
        end = one.end
    return _HEAD + "".join([*lines, *_line(fill, disk_bytes - end)])


def _line(number: int, size: int) -> list[str]:
    return [f'RW {size // SECTOR} FLAT "/dev/fdset/{number}" 0\n'] if size else []


def _exchange(monitor: Monitor, extents: Iterable[Extent], *, disk_bytes: int) -> None:
    """A new medium of these in the place of the one that there is."""
    old = str(monitor.run("qom-get", {"path": _DEVICE, "property": "drive"}))
    new = _NAMES[old == _NAMES[0]]
    _forget(monitor, new)  # left by a process that was killed meanwhile
    text = described(extents, fill=_fill(monitor, disk_bytes), disk_bytes=disk_bytes)
    number = _add_memory(monitor, "descriptor", data=text.encode())
    try:
        file = {"driver": "file", "filename": f"/dev/fdset/{number}", "read-only": True, "locking": "off"}
        monitor.run("blockdev-add", {"driver": "vmdk", "node-name": new, "read-only": True, "file": file})
    finally:
        monitor.run("remove-fd", {"fdset-id": number})
    monitor.run("qom-set", {"path": _DEVICE, "property": "drive", "value": new})
    if old in _NAMES:
        _forget(monitor, old)


def _forget(monitor: Monitor, name: str) -> None:
    try:
        monitor.run("blockdev-del", {"node-name": name})
    except Refused:  # it is not there
        pass


def _fill(monitor: Monitor, size: int) -> int:
    """A file of zeros that takes no memory: holes are read."""
    for number, word in _sets(monitor):
        if word == _FILL:
            return number
    return _add_memory(monitor, _FILL, size=size)


def _add_memory(monitor: Monitor, word: str, *, data: bytes = b"", size: int = 0) -> int:
    with Guard("memfd_create", word):
        made = os.memfd_create(word, os.MFD_CLOEXEC)
        try:
            os.write(made, data)
            if size:
                os.ftruncate(made, size)
            fd = os.open(f"/proc/self/fd/{made}", os.O_RDONLY | os.O_CLOEXEC)
        finally:
            os.close(made)
    try:
        return monitor.add_file(fd, word)
    finally:
        os.close(fd)


def _extents(monitor: Monitor) -> list[Extent]:
    result = []
    for number, word in _sets(monitor):
        offset, _, size = word.partition(" ")
        if word.isascii() and offset.isdigit() and size.isdigit() and len(word) <= _MOST_WORD:
            result.append(Extent(int(offset), int(size), number))
    return result


def _sets(monitor: Monitor) -> list[tuple[int, str]]:
    """Number and word of each, as QEMU says: its guest may have got at it, and harms only itself."""
    sets: Any = monitor.run("query-fdsets")
    try:
        return [
            (whole(one["fdset-id"]), str(one["fds"][0].get("opaque", ""))) for one in sets[:_MOST_SETS] if one["fds"]
        ]
    except (TypeError, KeyError, AttributeError):
        raise VmFailed("the VMM's monitor answered with something other than descriptors") from None
