# SPDX-License-Identifier: Apache-2.0
"""Converts one layer, as a registry stores it, to one erofs blob named after its diff id.

Called by the pull, from a thread. A blob is built under a temporary name, sealed and renamed into place, so it is
either absent or complete, after a power cut too; two pulls of one layer wait for each other and convert it once.
"""

import json
import os
from collections.abc import Callable
from contextlib import closing
from typing import NamedTuple

from stage1.linux import files
from stage1.linux.feeding import Pace
from stage1.linux.flock import Lock
from stage1.linux.libc import Guard
from stage1.linux.supervise import never
from stage1.rootfs import layerjob, layout, seal, worker
from stage1.rootfs.blob import Blob, Rules, most_unpacked, unpack
from stage1.rootfs.erofs import Image
from stage1.rootfs.limits import ELAPSED, Limits
from stage1.rootfs.worker import Asker, ForkServer, Question

_BASE_S, _BYTES_PER_S = 120.0, 2_000_000
_PACE = Pace(_BASE_S * ELAPSED, _BYTES_PER_S / ELAPSED)
_SLACK_BYTES = 256 << 20
_FACTS_BYTES = 1 << 30


class ImageFiles(NamedTuple):
    """The files of an image on disk, as absolute paths."""

    id: str
    layers: tuple[str, ...]
    """The erofs blobs, lowest first, in the order in which `merged` refers to them."""
    merged: str
    config: str


class Place(NamedTuple):
    """The directories in which layers are kept and made. `work_dir` is the caller's own, on the same file system."""

    layers_dir: str
    work_dir: str
    stop: Callable[[], bool] = never
    """Asked now and then; true ends the work with `Stopped`."""
    limits: Limits = Limits()
    server: ForkServer | None = None
    """The server that forks the processes that read layers; without it each is a new program."""


def convert(blob: Blob, place: Place) -> str:
    """Make the erofs blob of a layer unless it is there; returns its path.

    Raises Corrupt (digests, gzip, tar), OverLimit, Unsupported, NoSpace, TimedOut, Stopped.
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
            files.unlink(lock)
    return path


def _convert(blob: Blob, place: Place) -> None:
    box, uid = f"{place.work_dir}/{layout.hex_of(blob.diff_id)}.layer", place.limits.uid
    try:
        worker.make_box(box, uid=uid)
        size = _made(blob, place, box=box)
        most_bytes = size + _SLACK_BYTES
        made, facts = f"{box}/{layerjob.BLOB}", f"{box}/{layerjob.FACTS}"
        worker.adopt(box, layerjob.BLOB, target=made, most_bytes=most_bytes)
        check_image(made)
        worker.adopt(box, layerjob.FACTS, target=facts, most_bytes=_FACTS_BYTES)
        _keep(blob.diff_id, place, made=made, facts=facts)
    finally:
        worker.remove_box(box)


def _made(blob: Blob, place: Place, *, box: str) -> int:
    """Have the blob unpacked, checked and converted in one go, in a process with `box`; bytes of the tar."""
    arguments = (blob.title, blob.diff_id, json.dumps(place.limits))
    cpu_s = _BASE_S + most_unpacked(os.path.getsize(blob.path), place.limits) / _BYTES_PER_S
    question = Question("stage1.rootfs.layerjob", arguments, blob.title, cpu_s, box, _SLACK_BYTES)
    with closing(worker.Feeding(question, Asker(place.limits, place.stop, place.server), _PACE)) as feeding:
        size = unpack(blob, feeding, rules=Rules(place.limits, place.stop))
        feeding.answer()
    return size


def _keep(diff_id: str, place: Place, *, made: str, facts: str) -> None:
    """Move the two files of a layer to their places, the blob last."""
    moves = {facts: layout.facts_path(place.layers_dir, diff_id), made: layout.layer_path(place.layers_dir, diff_id)}
    seals = zip(map(os.path.basename, moves.values()), seal.of(moves, place.stop), strict=True)
    seal.write(layout.seal_path(place.layers_dir, diff_id), dict(seals))
    for path, target in moves.items():
        with Guard("rename", path):
            os.rename(path, target)
    files.sync(place.layers_dir)


def check_image(path: str) -> None:
    """Raises Corrupt unless the file at `path` is an erofs image with the size in its superblock."""
    with Guard("read", path), Image(path):
        pass
