# SPDX-License-Identifier: Apache-2.0
"""Scratch disks: a proper ext4, sparse, each pod its own. Real mkfs.ext4; nothing is mounted."""

import ctypes
import os
import subprocess
from pathlib import Path

import pytest

from stage1.errors import BadRequest, NoSpace
from stage1.rootfs import scratch
from stage1.rootfs.scratch import copy_sparse, make_scratch

GIB = 1 << 30
SYS_CACHESTAT = 451


@pytest.mark.parametrize(("size", "real"), [(1 << 20, 1 << 20), (5_000_001, 5_001_216), (10 * GIB, 10 * GIB)])
def test_a_scratch_disk_is_a_sound_sparse_ext4_of_its_size(size: int, real: int, tmp_path: Path) -> None:
    disk = tmp_path / "scratch.img"
    make_scratch(str(disk), size, template_dir=str(tmp_path / "templates"))
    assert disk.stat().st_size == real
    assert disk.stat().st_blocks * 512 <= 2 << 20
    assert disk.stat().st_mode & 0o777 == 0o600
    subprocess.run(["e2fsck", "-fn", str(disk)], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    told = subprocess.run(["dumpe2fs", str(disk)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert "has_journal" not in told.stdout
    assert "Reserved block count:     0\n" in told.stdout
    assert [
        line for line in told.stdout.splitlines() if "csum" in line and "Group" in line and "ITABLE_ZEROED" not in line
    ] == []


def test_one_template_serves_all_disks_of_a_size(tmp_path: Path) -> None:
    for name in ("a", "b"):
        make_scratch(str(tmp_path / name), 64 << 20, template_dir=str(tmp_path / "t"))
    (tmp_path / "a").write_bytes(b"scribbled over")
    make_scratch(str(tmp_path / "c"), 64 << 20, template_dir=str(tmp_path / "t"))
    assert (tmp_path / "c").read_bytes() == (tmp_path / "b").read_bytes()
    assert sorted(n for n in os.listdir(tmp_path / "t") if not n.endswith(".lock")) == ["ext4-67108864.img"]


def test_no_zeros_are_copied_to_a_small_disk(tmp_path: Path) -> None:
    """mkfs.ext4 writes 4 MiB of them into the inode tables of this one."""
    make_scratch(str(tmp_path / "a"), 64 << 20, template_dir=str(tmp_path / "t"))
    assert (tmp_path / "a").stat().st_blocks * 512 <= 128 << 10
    checked = subprocess.run(["e2fsck", "-fn", str(tmp_path / "a")], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout


def test_disks_are_distinguished_by_their_template(tmp_path: Path) -> None:
    for name, templates in (("a", "t"), ("b", "t"), ("c", "others")):
        make_scratch(str(tmp_path / name), 64 << 20, template_dir=str(tmp_path / templates))
    first, second, other = (scratch.uuid(str(tmp_path / name)) for name in "abc")
    assert first == second != other and len(first) == 32
    told = subprocess.run(["dumpe2fs", "-h", str(tmp_path / "a")], capture_output=True, text=True, check=True).stdout
    assert first in told.replace("-", "")


@pytest.mark.parametrize("size", [-1, 0, 4096, (1 << 20) - 1])
def test_a_size_that_holds_nothing_is_refused(size: int, tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match="too small"):
        make_scratch(str(tmp_path / "x"), size, template_dir=str(tmp_path / "t"))
    assert os.listdir(tmp_path) == []


def test_a_copy_keeps_holes_and_data(tmp_path: Path) -> None:
    source = tmp_path / "source"
    with source.open("wb") as file:
        for offset in (0, 1 << 20, 5 << 20):
            file.seek(offset)
            file.write(os.urandom(3000))
        file.truncate(8 << 20)
    copy_sparse(str(source), str(tmp_path / "target"))
    assert (tmp_path / "target").read_bytes() == source.read_bytes()
    assert (tmp_path / "target").stat().st_blocks <= 64


def dirty_pages(path: Path) -> int:
    """Of the file, in the page cache. Skips where the kernel does not tell (before 6.5)."""
    libc, numbers = ctypes.CDLL(None, use_errno=True), (ctypes.c_uint64 * 5)()
    with path.open("rb") as file:
        if libc.syscall(SYS_CACHESTAT, file.fileno(), (ctypes.c_uint64 * 2)(0, 0), numbers, 0) < 0:
            pytest.skip(f"cachestat: {os.strerror(ctypes.get_errno())}")
    return int(numbers[1] + numbers[2])


def test_blocks_are_shared_where_the_file_system_can_and_written_before(loop_xfs: Path) -> None:
    source, target = loop_xfs / "source", loop_xfs / "target"
    source.write_bytes(os.urandom(24 << 20))
    assert dirty_pages(source) > 0
    assert scratch.write_back(str(source), str(loop_xfs))
    assert dirty_pages(source) == 0 and os.listdir(loop_xfs) == ["source"]
    before = os.statvfs(loop_xfs)
    copy_sparse(str(source), str(target))
    after = os.statvfs(loop_xfs)
    assert (before.f_bfree - after.f_bfree) * before.f_frsize < 4 << 20
    assert target.read_bytes() == source.read_bytes()


def test_what_is_copied_byte_by_byte_is_not_written_before(tmp_path: Path, tiny_disk: Path, loop_xfs: Path) -> None:
    source = loop_xfs / "source"
    source.write_bytes(os.urandom(1 << 20))
    for near in (tiny_disk, tmp_path / "absent"):
        assert not scratch.write_back(str(source), str(near))
        assert dirty_pages(source) > 0
    with pytest.raises(FileNotFoundError):
        scratch.write_back(str(loop_xfs / "absent"), str(loop_xfs))


def test_a_full_disk_leaves_no_half_scratch_disk(tmp_path: Path, tiny_disk: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(os.urandom(1 << 20))
    with pytest.raises(NoSpace, match="target"):
        copy_sparse(str(source), str(tiny_disk / "target"))
    assert os.listdir(tiny_disk) == []


def test_a_failing_mkfs_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scratch, "_OPTIONS", ("--no-such-option",))
    with pytest.raises(Exception, match=r"mkfs\.ext4 could not make"):
        make_scratch(str(tmp_path / "x"), 64 << 20, template_dir=str(tmp_path / "t"))
    assert not (tmp_path / "x").exists()
    assert [n for n in os.listdir(tmp_path / "t") if not n.endswith(".lock")] == []


def test_a_disk_that_outlives_its_vm_has_a_journal_and_is_made_once(tmp_path: Path) -> None:
    (tmp_path / "pod").mkdir()
    path, templates = tmp_path / "kubelet/clearpod/disk.img", str(tmp_path / "templates")
    disk = scratch.Disk(str(path), 16 << 20, os.getuid(), is_lasting=True)
    scratch.add(disk, str(tmp_path / "pod"), template_dir=templates)
    assert path.stat().st_mode & 0o777 == 0o600
    told = subprocess.run(["dumpe2fs", "-h", path], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert "has_journal" in told.stdout
    assert path.stat().st_blocks * 512 <= 2 << 20, "the journal is sparse"
    path.write_bytes(b"of a guest")
    (tmp_path / "pod" / scratch.LINK).unlink()
    scratch.add(disk, str(tmp_path / "pod"), template_dir=templates)
    scratch.remove(str(tmp_path / "pod"))
    assert path.read_bytes() == b"of a guest", "another VM of the same pod finds it, and it goes with the kubelet's"
