# SPDX-License-Identifier: Apache-2.0
"""Layers that somebody made in order to hurt: each is taken, or refused with one sentence that says why, and in either
case the process that pulls grows by nothing and nothing half-made stays.
"""

import contextlib
import functools
import os
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from stage1.errors import PodError, Unsupported
from stage1.rootfs.blob import Blob
from stage1.rootfs.corrupt import Corrupt
from stage1.rootfs.erofs import Image
from stage1.rootfs.layers import Place, convert
from stage1.rootfs.limits import Limits, OverLimit
from stage1.rootfs.worker import ForkServer
from tests.fakes.oci_layout import digest
from tests.fakes.raw_tar import END, base256, header, octal, padded, pax

from .test_layers import left_behind

MIB = 1 << 20
LIES = header(b"x", b"x", size=octal(10)) + padded(b"99999 a=b\n")
SLASHES = b"/".join([b"a"] * 500)

TAKEN = {
    "an absolute name": (header(b"/etc/x"), "etc/x"),
    "devices": (header(b"null", b"3") + header(b"disk", b"4") + header(b"pipe", b"6"), "pipe"),
    "duplicates": (header(b"a") + header(b"a") + header(b"a", b"2", link=b"/etc"), "a"),
    "newlines": (header(b"a\nb/c\nd"), "a\nb/c\nd"),
    "a size in base 256": (header(b"a", size=base256(3)) + padded(b"abc"), "a"),
    "a whiteout of nothing": (header(b".wh.nothing") + header(b"a"), "a"),
    "an opaque mark that is a directory": (header(b"d/.wh..wh..opq/", b"5"), "d"),
    "a directory with a size": (header(b"d/", b"5", size=octal(4096)) + header(b"d/x"), "d/x"),
    "a time past all time": (pax({b"mtime": b"9" * 23}) + header(b"a"), "a"),
    "a global path": (pax({b"path": b"g"}, b"g") + header(b"a"), "g"),
    "an attribute with a long name": (pax({b"SCHILY.xattr.user." + b"n" * 250: b"v"}) + header(b"a"), "a"),
    "a long link": (pax({b"linkpath": b"a/" * 2000}) + header(b"a", b"2"), "a"),
}

REFUSED = {
    "dots": (header(b"a/../../x"), Corrupt, "outside of its root"),
    "a hard link that leads out": (header(b"a", b"1", link=b"/../../etc/shadow"), Corrupt, "outside of its root"),
    "a hard link to nothing": (header(b"a", b"1", link=b"nothing"), Corrupt, "mkfs.erofs could not read"),
    "a hard link to itself": (header(b"a", b"1", link=b"a"), Corrupt, "mkfs.erofs could not read"),
    "hard links in a circle": (
        header(b"a", b"1", link=b"b") + header(b"b", b"1", link=b"a"),
        Corrupt,
        "mkfs.erofs could not read",
    ),
    "a hard link to a directory": (header(b"d/", b"5") + header(b"a", b"1", link=b"d"), Corrupt, "mkfs.erofs could"),
    "a file as a directory": (header(b"a") + header(b"a/b"), Corrupt, "mkfs.erofs could not read"),
    "a link as a directory": (header(b"l", b"2", link=b"/etc") + header(b"l/passwd"), Corrupt, "mkfs.erofs could not"),
    "a whiteout with content": (
        header(b"d/.wh.a", size=octal(3)) + padded(b"abc") + header(b"b"),
        Corrupt,
        "are empty",
    ),
    "an opaque mark with content": (header(b".wh..wh..opq", size=octal(1)) + padded(b"a"), Corrupt, "of 1 bytes"),
    "a zero byte in a name": (pax({b"path": b"a\0b"}) + header(b"a"), Corrupt, "zero byte"),
    "a sparse file of GNU tar": (header(b"s", b"S"), Unsupported, "sparse file"),
    "a sparse file of PAX": (pax({b"GNU.sparse.major": b"1"}) + header(b"s"), Unsupported, "sparse file"),
    "a negative size": (header(b"a", size=base256(-512)), Corrupt, "'a' has -512 bytes, and 1024 are left"),
    "a negative size in PAX": (pax({b"size": b"-512"}) + header(b"a"), Corrupt, "has -512 bytes"),
    "a size of 2^63": (header(b"a", size=base256(1 << 63)), Corrupt, "has 9223372036854775808 bytes"),
    "a size of 2^63 in PAX": (pax({b"size": b"9223372036854775808"}) + header(b"a"), Corrupt, "9223372036854775808"),
    "a size of many digits": (pax({b"size": b"9" * 5000}) + header(b"a"), Corrupt, "has the size"),
    "a user of 2^40": (header(b"a", uid=base256(1 << 40, 8)), Corrupt, "has the uid"),
    "a user that no pod has": (header(b"a", uid=base256(1 << 31, 8)), Unsupported, "'a' .*uid 2147483648"),
    "the user of nobody": (header(b"a", uid=base256((1 << 32) - 1, 8)), Corrupt, "has the uid 4294967295"),
    "a PAX header that lies": (
        header(b"x", b"x", size=octal(10)) + padded(b"99999 a=b\n") + header(b"a"),
        Corrupt,
        "PAX",
    ),
    "a PAX header of nothing": (pax({b"path": b"x"}), Corrupt, "followed by nothing"),
    "a PAX header past the end": (header(b"x", b"x", size=octal(MIB // 2)), Corrupt, "are left in the archive"),
    "a PAX header of 1.5 GiB": (header(b"x", b"x", size=octal(1536 * MIB)), OverLimit, "images.header_kib = 1024"),
    "a long name of 1.5 GiB": (header(b"x", b"L", size=octal(1536 * MIB)), OverLimit, "images.header_kib = 1024"),
    "a whiteout without a name": (header(b".wh."), Corrupt, "names nothing"),
    "a whiteout of the directory": (header(b"d/.wh.."), Corrupt, "names nothing"),
    "a whiteout of the parent": (header(b"d/.wh..."), Corrupt, "names nothing"),
    "a file as the root": (header(b"/"), Corrupt, "root that is not a directory"),
    "a file without a name": (header(b""), Corrupt, "root that is not a directory"),
    "a name that is too long": (pax({b"path": b"a" * 300}) + header(b"a"), Corrupt, "more than 255 bytes"),
    "a path that is too long": (pax({b"path": b"aa/" * 2000}) + header(b"a"), OverLimit, "images.path_bytes = 4095"),
    "a path that is too deep": (pax({b"path": SLASHES}) + header(b"a"), OverLimit, "images.path_depth = 128"),
    "an attribute whose name is too long": (
        pax({b"SCHILY.xattr.user." + b"n" * 251: b"v"}) + header(b"a"),
        Corrupt,
        "attribute 'SCHILY.xattr.user.n",
    ),
    "an attribute whose name is too long, by libarchive": (
        pax({b"LIBARCHIVE.xattr.user." + b"n" * 1000: b"v"}) + header(b"a"),
        Corrupt,
        "of 1022 bytes",
    ),
    "an attribute that is too long": (
        pax({b"SCHILY.xattr.user.x": b"v" * 70000}) + header(b"a"),
        Corrupt,
        "mkfs.erofs",
    ),
}


@pytest.fixture(scope="module")
def server() -> Iterator[ForkServer]:
    """As pulls have it; `test_layers` has layers read by Pythons that are started."""
    with contextlib.closing(ForkServer(("stage1.rootfs.layerjob",))) as server:
        yield server


@pytest.fixture
def place(tmp_path: Path, server: ForkServer) -> Place:
    for name in ("layers", "tmp"):
        (tmp_path / name).mkdir()
    return Place(str(tmp_path / "layers"), str(tmp_path / "tmp"), server=server)


def blob_of(content: bytes, tmp_path: Path, stored: bytes | None = None) -> Blob:
    """A layer of these bytes."""
    path = tmp_path / "blob"
    path.write_bytes(content if stored is None else stored)
    return Blob(str(path), digest(content if stored is None else stored), digest(content))


@pytest.mark.parametrize("case", TAKEN)
def test_what_is_odd_and_harmless_is_taken(case: str, place: Place, tmp_path: Path) -> None:
    content, path = TAKEN[case]
    with Image(convert(blob_of(content + END, tmp_path), place)) as image:
        assert image.find(path) is not None
    assert os.listdir(place.work_dir) == []


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_layer_is_refused_with_its_reason_and_leaves_nothing(
    case: str, place: Place, tmp_path: Path
) -> None:
    content, kind, says = REFUSED[case]
    with pytest.raises(kind, match=says) as caught:
        convert(blob_of(content + END, tmp_path), place)
    assert type(caught.value) is kind and "\n" not in str(caught.value)
    assert left_behind(place) == []


FILES = b"".join(header(b"f%d" % n) for n in range(300)) + END
DIRECTORIES = b"".join(header(b"d%d/f" % n) for n in range(300)) + END


@pytest.mark.parametrize(
    ("content", "limits", "says"),
    [
        (FILES, Limits(layer_entries=299), "299 entries, .*images.layer_entries = 299"),
        (DIRECTORIES, Limits(layer_entries=300), "300 directories, .*images.layer_entries = 300"),
        (header(b"a", size=octal(2 * MIB)) + bytes(2 * MIB) + END, Limits(layer_mib=1), "images.layer_mib = 1 in"),
        (
            pax({b"comment": b"c" * 2048}) + header(b"a") + END,
            Limits(header_kib=2),
            "2062 bytes, and images.header_kib",
        ),
        (pax({b"path": b"a" * 250 + b"/" + b"b" * 50}) + header(b"a") + END, Limits(path_bytes=300), "of 301 bytes"),
        (header(b"a/b/c") + END, Limits(path_depth=2), "3 components, and images.path_depth = 2"),
    ],
)
def test_each_limit_is_named_with_its_key(
    content: bytes, limits: Limits, says: str, place: Place, tmp_path: Path
) -> None:
    blob = blob_of(content, tmp_path)
    with pytest.raises(OverLimit, match=says) as caught:
        convert(blob, place._replace(limits=limits))
    assert blob.digest in str(caught.value)
    assert left_behind(place) == []


@functools.cache
def deflated(head: bytes, *, zeros: int) -> tuple[bytes, str]:
    """gzip of `head` and then as many zeros, and the digest of all that."""
    import hashlib

    packer, hasher, chunk = zlib.compressobj(6, zlib.DEFLATED, 31), hashlib.sha256(head), bytes(MIB)
    result = packer.compress(head)
    for _ in range(zeros // MIB):
        result += packer.compress(chunk)
        hasher.update(chunk)
    return result + packer.flush(), "sha256:" + hasher.hexdigest()


def peak_kib() -> int:
    """The most memory that this process has had since `forget_peak`."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


def forget_peak() -> None:
    """Let the peak begin again at what is in use; proc(5), clear_refs."""
    Path("/proc/self/clear_refs").write_text("5")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("limits", "says"),
    [
        (Limits(), "more than .* images.ratio = 200"),
        (Limits(ratio=2000), "images.header_kib = 1024"),
        (Limits(ratio=2000, header_kib=MIB, memory_mib=128), "images.memory_mib = 128"),
    ],
)
def test_a_small_blob_that_becomes_a_header_of_hundreds_of_mib_costs_the_daemon_nothing(
    limits: Limits, says: str, place: Place, tmp_path: Path
) -> None:
    size = 384 * MIB
    stored, diff_id = deflated(header(b"x", b"x", size=octal(size)), zeros=size)
    assert len(stored) < MIB
    path = tmp_path / "blob"
    path.write_bytes(stored)
    forget_peak()
    before = peak_kib()
    with pytest.raises(OverLimit, match=says):
        convert(Blob(str(path), digest(stored), diff_id), place._replace(limits=limits))
    assert peak_kib() - before < 32 << 10
    assert left_behind(place) == []


@pytest.mark.parametrize("program", ["gzip", "zstd"])
def test_compressed_rubbish_is_refused(program: str, place: Place, tmp_path: Path) -> None:
    magic = {"gzip": b"\x1f\x8b", "zstd": b"\x28\xb5\x2f\xfd"}[program]
    with pytest.raises(Corrupt, match=f"is not valid {program}"):
        convert(blob_of(b"", tmp_path, stored=magic + os.urandom(3000)), place)
    assert left_behind(place) == []


def test_a_window_of_zstd_larger_than_the_memory_is_refused(place: Place, tmp_path: Path) -> None:
    # RFC 8878: a frame header without single segment, the window's exponent in the upper five bits (2^(10 + 20)).
    stored = b"\x28\xb5\x2f\xfd" + b"\x00" + bytes([20 << 3]) + b"\x01\x00\x00"
    with pytest.raises(OverLimit, match=r"images.memory_mib = 256"):
        convert(blob_of(b"", tmp_path, stored=stored), place._replace(limits=Limits(memory_mib=256)))
    assert left_behind(place) == []


def test_a_blob_that_is_no_regular_file_is_refused_without_waiting(place: Place, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "blob")
    with pytest.raises(PodError, match="regular file"):
        convert(Blob(str(tmp_path / "blob"), digest(b""), digest(b"")), place)
    assert left_behind(place) == []
