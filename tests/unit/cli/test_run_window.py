# SPDX-License-Identifier: Apache-2.0
"""How large a window `clearpod run` reserves for the one image that it knows."""

import struct
from pathlib import Path

import pytest

from cri.cli.run.command import _window_mib
from cri.config import Config
from cri.config_tables import Vm
from stage1.pod.model import Pod
from stage1.rootfs.layers import ImageFiles

MIB = 1 << 20


def image(root: Path, size: int) -> ImageFiles:
    """An image of `size` bytes with one layer: sparse files, of which only the superblock and its table are read."""
    merged, layer = root / "merged.erofs", root / "layer.erofs"
    blocks = (size - 4096) // 4096
    head = bytearray(4096)
    head[1024:1072] = struct.pack("<IIIBBHQQIIII", 0xE0F5E1E2, 0, 0, 12, 0, 36, 1, 0, 0, 1, 0, 0)
    head[1110:1114] = struct.pack("<HH", 1, 9)
    head[1152 + 64 : 1152 + 72] = struct.pack("<II", blocks, 1)
    merged.write_bytes(head)
    with layer.open("wb") as sparse:
        sparse.truncate(blocks * 4096)
    return ImageFiles("sha256:" + "0" * 64, (str(layer),), str(merged), "")


@pytest.mark.parametrize(
    ("size", "configured", "expected"),
    [
        (8192, 256, 1),
        (MIB, 256, 1),
        (MIB + 4096, 256, 2),
        (300 * MIB, 256, 300),
        (512 * MIB, 1, 512),
        (512 * MIB + 4096, 256, 0),
        (MIB, 0, 0),
    ],
)
def test_it_is_what_the_image_needs_unless_that_is_too_dear(
    tmp_path: Path, size: int, configured: int, expected: int
) -> None:
    config, pod = Config(vm=Vm(window_mib=configured)), Pod("p", "p", memory_mib=128)
    assert _window_mib(config, pod, files=image(tmp_path, size)) == expected
