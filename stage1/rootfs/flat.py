# SPDX-License-Identifier: Apache-2.0
"""How an image lies in a guest's memory as one piece: `merged.erofs`, and behind it each layer where it is looked for.

Called by the engine for the DAX window. mkfs.erofs has written the places into the merged image, so that the kernel
mounts the whole without a word about other devices. Only looks: nothing is copied.
"""

import os
from typing import NamedTuple

from stage1.linux.libc import Guard
from stage1.rootfs.corrupt import Corrupt
from stage1.rootfs.erofs import Image
from stage1.rootfs.layers import ImageFiles

_PAGE_BYTES = 4096


class Piece(NamedTuple):
    """A file of `size` bytes that begins at `offset`."""

    path: str
    offset: int
    size: int


def flatten(files: ImageFiles) -> tuple[Piece, ...]:
    """The pieces, in order, whole pages, none over another; the last one's end is the image's size in bytes.

    Raises Corrupt when the merged image and its layers do not fit together, KernelError when one is gone.
    """
    with Guard("read", files.merged), Image(files.merged) as image:
        places = image.devices()
    paths = (files.merged, *files.layers)
    with Guard("examine", f"a layer of image {files.id}"):
        sizes = [os.path.getsize(path) for path in paths]
    if len(places) != len(files.layers):
        raise Corrupt(
            f"image {files.id} was merged from {len(places)} layers and has {len(files.layers)}; pull it again"
        )
    pieces = [Piece(paths[0], 0, sizes[0])]
    for (offset, promised), path, size in zip(places, paths[1:], sizes[1:], strict=True):
        _check(files.id, Piece(path, offset, size), promised=promised, free=pieces[-1].offset + pieces[-1].size)
        pieces.append(Piece(path, offset, size))
    return tuple(pieces)


def _check(image_id: str, piece: Piece, *, promised: int, free: int) -> None:
    if piece.offset < free or piece.size != promised or (piece.offset | piece.size) % _PAGE_BYTES:
        raise Corrupt(
            f"image {image_id} has {piece.size} bytes at {piece.offset} for {piece.path}, where {promised} are "
            f"expected after {free}; remove it and pull it again"
        )
