# SPDX-License-Identifier: Apache-2.0
"""Images as one piece of memory: the places are those that mkfs.erofs wrote, and odd ones are refused."""

import itertools
import os
import struct
from pathlib import Path

import pytest

from stage1.errors import KernelError
from stage1.rootfs.corrupt import Corrupt
from stage1.rootfs.erofs import Image
from stage1.rootfs.flat import flatten
from stage1.rootfs.layers import ImageFiles
from tests.fakes.oci_layout import Entry, digest, directory, file, tar
from tests.unit.rootfs.test_merge import IMAGE_ID, merged

LOWER = [directory("./"), *(file(f"f{n}", bytes([n]) * 5000) for n in range(9))]
UPPER = [file("big", b"b" * 70_001), file(".wh.f0", b"")]
DEVICES_AT = 9 * 128
"""Where mkfs.erofs puts the table of the layers: behind the superblock."""


def image(tmp_path: Path, *layers: list[Entry]) -> ImageFiles:
    """The files of an image of these layers."""
    out = merged(tmp_path, *layers)
    blobs = tuple(f"{tmp_path}/layers/{digest(tar(one)).removeprefix('sha256:')}.erofs" for one in layers)
    return ImageFiles(IMAGE_ID, blobs, f"{out}/merged.erofs", "")


@pytest.mark.parametrize("layers", [[LOWER], [LOWER, UPPER], [LOWER, UPPER, [file("late", b"x" * 4096)]]])
def test_the_pieces_are_the_files_in_order_whole_pages_and_apart(tmp_path: Path, layers: list[list[Entry]]) -> None:
    files = image(tmp_path, *layers)
    result = flatten(files)
    assert [piece.path for piece in result] == [files.merged, *files.layers]
    assert result[0].offset == 0
    for piece, following in itertools.pairwise(result):
        assert piece.offset + piece.size <= following.offset
    assert all(piece.size == os.path.getsize(piece.path) and piece.size % 4096 == 0 for piece in result)
    with Image(files.merged) as opened:
        assert opened.devices() == tuple((piece.offset, piece.size) for piece in result[1:])


@pytest.mark.parametrize(("blocks", "start"), [(0, 1), (1, 1), (2**32 - 1, 1), (None, 0), (None, 2**32 - 1)])
def test_a_table_that_lies_is_refused(tmp_path: Path, blocks: int | None, start: int) -> None:
    files = image(tmp_path, LOWER, UPPER)
    with open(files.merged, "r+b") as opened:
        opened.seek(DEVICES_AT + 128 + 64)
        true, _ = struct.unpack("<II", opened.read(8))
        opened.seek(DEVICES_AT + 128 + 64)
        opened.write(struct.pack("<II", true if blocks is None else blocks, start))
    if (blocks, start) == (None, 2**32 - 1):
        assert flatten(files)[-1].offset == (2**32 - 1) * 4096  # far away, but no lie: it will not fit
        return
    with pytest.raises(Corrupt, match="pull it again"):
        flatten(files)


def test_files_that_are_gone_or_too_many_are_refused(tmp_path: Path) -> None:
    files = image(tmp_path, LOWER, UPPER)
    with pytest.raises(Corrupt, match="2 layers and has 1"):
        flatten(files._replace(layers=files.layers[:1]))
    os.truncate(files.layers[1], 4096)
    with pytest.raises(Corrupt):
        flatten(files)
    os.unlink(files.layers[1])
    with pytest.raises(KernelError):
        flatten(files)
