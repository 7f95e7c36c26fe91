# SPDX-License-Identifier: Apache-2.0
"""Limits of emptyDirs on the pod's disk: the annotation, and the disk that is made for them."""

import os
import stat
import subprocess
from itertools import pairwise
from pathlib import Path

import pytest

from cri.pb import runtime_pb2 as pb
from cri.translate import volume_limits
from stage1.errors import BadRequest
from stage1.linux.host import which
from stage1.pod.model import DiskLimit
from stage1.rootfs import parted

MIB = 1 << 20
KEY = "clearpod.io/emptydir-limits"


def _asked(text: str) -> tuple[DiskLimit, ...]:
    return volume_limits.asked(pb.PodSandboxConfig(annotations={KEY: text}))


@pytest.mark.parametrize(
    ("text", "limits"),
    [
        ("", ()),
        ("cache=512Mi", (DiskLimit("cache", 512 * MIB),)),
        ("b=20000000, a-1=2Gi", (DiskLimit("b", 20_000_000), DiskLimit("a-1", 2048 * MIB))),
        ("m=16777216", (DiskLimit("m", 16 * MIB),)),
        ("m=17M,k=20000k", (DiskLimit("m", 17_000_000), DiskLimit("k", 20_000_000))),
    ],
)
def test_names_have_sizes_in_kubernetes_units(text: str, limits: tuple[DiskLimit, ...]) -> None:
    assert _asked(text) == limits
    assert volume_limits.asked(pb.PodSandboxConfig()) == ()


@pytest.mark.parametrize(
    ("text", "noun"),
    [
        ("cache", "cache"), ("cache=", "cache="), ("=1Gi", "=1Gi"), ("cache=1Gi,", "''"), ("Cache=1Gi", "Cache"),
        ("a/b=1Gi", "a/b"), ("../x=1Gi", r"\.\./x"), ("+5=1Gi", r"\+5"), ("a=1.5Gi", "1.5Gi"), ("a=-1Gi", "-1Gi"),
        ("a=1Ei", "1Ei"), ("a=\uff11Gi", "a="), ("a=16777215", "16777215"), ("a=0", "a=0"), ("a=17Ti", "17Ti"),
        ("a=1Gi,a=2Gi", "a twice"), (",".join(f"v{n}=16Mi" for n in range(17)), "17"), ("a=1Gi\nb=1Gi", "a=1Gi"),
        (f"{'a' * 64}=1Gi", "aaa"), ("a=" + "9" * 400, "999"),
    ],
)  # fmt: skip
def test_another_text_is_refused_with_what_is_in_it(text: str, noun: str) -> None:
    with pytest.raises(BadRequest, match=f"(?s){KEY}.*{noun}"):
        _asked(text)


def test_a_limit_that_can_not_be_enforced_is_refused() -> None:
    volume_limits.require(_asked("a=1Gi"), on_disk=("a", "b"))
    with pytest.raises(BadRequest, match=rf"{KEY} names c, .*clearpod.io/emptydir: guest"):
        volume_limits.require(_asked("a=1Gi,c=1Gi"), on_disk=("a", "b"))


def test_limits_are_parts_of_the_disk_and_leave_some_of_it() -> None:
    limits = _asked("a=100Mi,b=20000000")
    parts = parted.layout(1 << 30, limits)
    assert [part.size >= limit.size_bytes for part, limit in zip(parts[1:], limits, strict=True)] == [True, True]
    assert all(one.start + one.size + MIB == two.start for one, two in pairwise(parts))
    assert parts[0].start == MIB and parts[-1].start + parts[-1].size == 1 << 30
    with pytest.raises(BadRequest, match=r"a, b leave 0 MiB .* of 128 .*clearpod.io/scratch-mib"):
        parted.layout(128 * MIB, limits)


@pytest.mark.skipif(not which("mkfs.ext4") or not which("partx"), reason="needs mkfs.ext4 and partx")
@pytest.mark.parametrize("text", ["a=16Mi", "a=500Mi,b=16Mi,c=600Mi,d=33333333"])
def test_the_disk_has_a_file_system_of_that_size_in_each_partition(tmp_path: Path, text: str) -> None:
    limits, disk = _asked(text), tmp_path / "disk.img.new"
    parted.make(str(disk), 2 << 30, limits=limits)
    assert stat.S_IMODE(disk.stat().st_mode) == 0o600 and disk.stat().st_size == 2 << 30
    assert disk.stat().st_blocks * 512 < 8 * MIB, "sparse"
    argv = ["partx", "--show", "--noheadings", "-o", "NR,START", disk]
    listed = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    starts = dict(map(int, line.split()) for line in listed.splitlines())
    parts = parted.layout(2 << 30, limits)
    numbers = [parted.BASE_PARTITION, *range(parted.FIRST_PARTITION, parted.FIRST_PARTITION + len(limits))]
    assert [starts[number] * 512 for number in numbers] == [part.start for part in parts]
    for limit, part in zip(limits, parts[1:], strict=True):
        free = _free_bytes(disk, part.start)
        assert limit.size_bytes <= free <= limit.size_bytes + 3 * MIB
    assert parted.read(str(tmp_path)) == limits


def _free_bytes(disk: Path, start: int) -> int:
    """As the superblock says, whose blocks have 4 KiB."""
    with disk.open("rb") as file:
        return int.from_bytes(os.pread(file.fileno(), 4, start + 1024 + 12), "little") * 4096


def test_a_disk_without_limits_has_no_record(tmp_path: Path) -> None:
    assert parted.read(str(tmp_path)) == ()
