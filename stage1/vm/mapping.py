# SPDX-License-Identifier: Apache-2.0
"""Puts images into a running VM, and takes them out: the record `window.json`, and kvmtool's shim's socket `dax.sock`
or, where the window is a disk, QEMU's monitor (medium.py).

Called by the engine and by who owns the pod, one call at a time for each pod. What the guest does with an image is not
known here: it must have unmounted what is taken out. The record is written before an image is mapped and after it was
unmapped, so that whoever reads it after a kill sees each image that may be there. images/lkvm-shim/README.md has the
other end of the socket.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Sequence

from stage1.errors import KernelError, NoSpace, PodError, VmFailed
from stage1.linux import beneath
from stage1.linux.libc import Guard
from stage1.vm import medium
from stage1.vm.window import Placed, Window

Pieces = Sequence[tuple[str, int, int]]


VERSION = 1
_RECORD = "window.json"
MIB = 1 << 20
_ANSWER_S = 10.0
_ANSWER_BYTES = 512
_MOST_BYTES = 1 << 48


def create(directory: str, size: int, *, is_disk: bool = False) -> None:
    """Record that the pod's VM has an empty window of `size` bytes, in its memory or as a disk."""
    _write(directory, Window(size, is_disk=is_disk))


def restore(directory: str, size: int, *, images: Sequence[Placed]) -> None:
    """Record that the pod's disk for images has these, as the guest has them that was loaded. Raises VmFailed."""
    window = Window(size, is_disk=True)
    try:
        for image in images:
            window = window.plus(image)
    except ValueError as error:
        raise VmFailed(f"the mapping of images is invalid for the window of {directory}: {error}") from None
    _write(directory, window)


def find(directory: str) -> Window | None:
    """The pod's window as recorded; None when its VM has none."""
    try:
        with beneath.Root(directory) as own:
            record = json.loads(own.read(_RECORD, ours=True))
        images = tuple(Placed(*image) for image in record["images"])
        return _checked(Window(record["size"], images, record.get("disk") is True))
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise VmFailed(f"{directory}/{_RECORD} is damaged: {error!r:.200}") from None


def _checked(window: Window) -> Window:
    """Raises ValueError unless the record's numbers are places."""
    numbers: tuple[object, ...] = (window.size, *(number for image in window.images for number in image[1:]))
    if not all(isinstance(number, int) and 0 <= number < _MOST_BYTES for number in numbers):
        raise ValueError("a number in it is not an offset in a window")
    return window


def put_in(directory: str, name: str, *, pieces: Pieces) -> Placed:
    """Map the files (path, offset in the image, bytes; in order) as the image `name`, which is not in yet.

    Raises NoSpace when it does not fit, VmFailed when the VMM refuses or is gone, KernelError when a file is absent;
    rolled back then.
    """
    window = find(directory) or Window(0)
    size = pieces[-1][1] + pieces[-1][2]
    place = window.place(name, size)
    if place is None:
        free = max((gap for _, gap in window.gaps()), default=0)
        raise NoSpace(
            f"the image needs {-(-size // MIB)} MiB in one piece, and the pod's window of {window.size // MIB} MiB "
            f"has {free // MIB} MiB"
        )
    _write(directory, window.plus(place))
    try:
        _map(directory, place, pieces=pieces, window=window)
    except BaseException as error:
        _take_out_after(error, directory, name=name)
        raise
    return place


def take_out(directory: str, name: str) -> None:
    """Put zero pages back where the image is. Idempotent. Raises VmFailed when the VMM refuses or is gone."""
    window = find(directory)
    place = window and window.find(name)
    if window is None or place is None:
        return
    if window.is_disk:
        with medium.connected(directory) as monitor:
            medium.remove(monitor, place.offset, size=place.size, disk_bytes=window.size)
    else:
        with _Shim(directory) as shim:
            shim.ask(f"unmap {place.offset} {place.size}")
    _write(directory, window.minus(name))


def _map(directory: str, place: Placed, *, pieces: Pieces, window: Window) -> None:
    if window.is_disk:
        with medium.connected(directory) as monitor:
            medium.remove(monitor, place.offset, size=place.size, disk_bytes=window.size)
            there = [(path, place.offset + offset, size) for path, offset, size in pieces]
            medium.add(monitor, there, disk_bytes=window.size)
        return
    with _Shim(directory) as shim:
        # What a process that was killed in the middle of this has left.
        shim.ask(f"unmap {place.offset} {place.size}")
        for path, offset, size in pieces:
            with Guard("open", path):
                fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                shim.ask(f"map {place.offset + offset} {size}", fd)
            finally:
                os.close(fd)


def _take_out_after(error: BaseException, directory: str, *, name: str) -> None:
    """Unmap; what can't be unmapped stays recorded, for a retry, and does not hide the original error."""
    try:
        take_out(directory, name)
    except PodError as second:
        error.add_note(f"and {name} could not be unmapped from the window: {second}")


class _Shim:
    """A connection to the VMM's window. Raises VmFailed when there is no answer, or one that is not ok."""

    def __init__(self, directory: str) -> None:
        self._path, self._send_fds = f"{directory}/dax.sock", socket.send_fds
        self._peer = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)

    def __enter__(self) -> _Shim:
        self._peer.settimeout(_ANSWER_S)
        try:
            with beneath.Socket(self._path) as address:
                self._peer.connect(address)
        except (OSError, KernelError) as error:
            self._peer.close()
            raise VmFailed(f"the VMM does not answer at {self._path}: {error}") from None
        return self

    def __exit__(self, *_: object) -> None:
        self._peer.close()

    def ask(self, request: str, fd: int = -1) -> None:
        """One request, with the descriptor of an image if `fd` is one."""
        try:
            self._send_fds(self._peer, [request.encode()], [fd] if fd >= 0 else [])
            answer = self._peer.recv(_ANSWER_BYTES).decode(errors="replace")
        except OSError as error:
            raise VmFailed(f"the VMM does not answer `{request}` at {self._path}: {error.strerror or error}") from None
        if answer != "ok":
            raise VmFailed(f"the VMM refused `{request}` at {self._path}: {answer or 'it closed the connection'}")


def _write(directory: str, window: Window) -> None:
    record = {"v": VERSION, "size": window.size, "images": [list(image) for image in window.images]}
    if window.is_disk:
        record["disk"] = True
    with beneath.Root(directory) as own:
        own.write(_RECORD, json.dumps(record).encode())
