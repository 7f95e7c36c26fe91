# SPDX-License-Identifier: Apache-2.0
"""The space that the daemon keeps: on a real disk, which gets full."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from cri.store.reserve import HEADROOM, SHARES, Reserve
from stage1.errors import NoSpace
from stage1.linux import files
from tests.fakes.small_disk import MIB, SmallDisk, small_disk

SIZE = 2 * MIB


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with small_disk(tmp_path / "image", tmp_path / "disk", mib=16) as made:
        yield made


def _reserve(disk: SmallDisk, size: int = SIZE) -> Reserve:
    return Reserve(f"{disk.place}/state/reserve", size)


def _write(disk: SmallDisk, size: int) -> str:
    files.write_atomic(f"{disk.place}/record", b"x" * size)
    return "written"


def test_it_is_kept_in_blocks_and_survives(disk: SmallDisk) -> None:
    free = disk.free_bytes
    assert _reserve(disk).held_bytes() == 0
    assert _reserve(disk).fill()
    assert free - disk.free_bytes >= SIZE
    assert _reserve(disk).held_bytes() >= SIZE
    assert os.stat(f"{disk.place}/state/reserve").st_mode & 0o777 == 0o600
    assert _reserve(disk).fill(), "it is idempotent"


def test_a_full_disk_takes_one_more_write_and_the_rest_is_kept(disk: SmallDisk) -> None:
    reserve = _reserve(disk)
    reserve.fill()
    disk.fill()
    with pytest.raises(NoSpace):
        _write(disk, 4096)
    assert reserve.spend(_write, disk, 4096) == "written"
    assert SIZE * (SHARES - 1) // SHARES <= reserve.held_bytes() < SIZE


def test_a_write_for_which_all_of_it_is_too_little_fails(disk: SmallDisk) -> None:
    reserve = _reserve(disk)
    reserve.fill()
    disk.fill()
    with pytest.raises(NoSpace):
        reserve.spend(_write, disk, 2 * SIZE)
    assert reserve.held_bytes() == 0
    assert not reserve.give()


def test_it_is_filled_up_when_there_is_space_and_is_not_what_fills_the_disk(disk: SmallDisk) -> None:
    reserve = _reserve(disk)
    disk.fill(leave=HEADROOM * SIZE - MIB)
    assert not reserve.fill()
    assert reserve.held_bytes() == 0
    disk.free()
    assert reserve.fill()
    reserve.give()
    disk.fill()
    assert not reserve.fill()
    disk.free()
    assert reserve.fill()


@pytest.mark.parametrize("size", [0, SIZE // 2])
def test_a_smaller_one_is_cut(disk: SmallDisk, size: int) -> None:
    _reserve(disk).fill()
    assert _reserve(disk, size).fill()
    assert _reserve(disk).held_bytes() == size


def test_none_gives_nothing(disk: SmallDisk) -> None:
    assert _reserve(disk, 0).fill()
    assert not os.path.exists(f"{disk.place}/state/reserve")
    disk.fill()
    with pytest.raises(NoSpace):
        _reserve(disk, 0).spend(_write, disk, 4096)
