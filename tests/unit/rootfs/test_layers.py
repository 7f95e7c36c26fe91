# SPDX-License-Identifier: Apache-2.0
"""A layer becomes an erofs blob, or nothing at all and one clear sentence. Real mkfs.erofs on layers of a
few KB.
"""

import os
import re
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from stage1.errors import BadRequest, PodError
from stage1.linux.supervise import Ended, Stopped
from stage1.rootfs import blob, facts, layers, layout
from stage1.rootfs.blob import Blob, _failure
from stage1.rootfs.corrupt import Corrupt
from stage1.rootfs.erofs import Image
from stage1.rootfs.layers import Place, convert
from stage1.rootfs.limits import Limits
from tests.fakes.oci_layout import CAP_NET_RAW, Entry, Layer, digest, directory, file, tar, zstd

Setting = tuple[Place, Path]


@pytest.fixture
def place(tmp_path: Path) -> Place:
    (tmp_path / "layers").mkdir()
    (tmp_path / "tmp").mkdir()
    return Place(str(tmp_path / "layers"), str(tmp_path / "tmp"))


def blob_of(layer: Layer, directory_: Path) -> Blob:
    path = directory_ / "blob"
    path.write_bytes(layer.blob())
    return Blob(str(path), digest(layer.blob()), digest(layer.tar))


def left_behind(place: Place) -> list[str]:
    return [*os.listdir(place.layers_dir), *os.listdir(place.work_dir)]


@pytest.mark.parametrize("compression", ["", "gzip", "zstd"])
def test_every_compression_gives_the_same_blob(compression: str, place: Place, tmp_path: Path) -> None:
    content = tar([directory("./"), file("etc/passwd", b"root\n" * 5000)])
    blob = blob_of(Layer(content, compression), tmp_path)
    path = convert(blob, place)
    assert path == f"{place.layers_dir}/{digest(content).removeprefix('sha256:')}.erofs"
    assert digest(Path(path).read_bytes()) == digest(
        Path(convert(blob_of(Layer(content, "gzip"), tmp_path), place)).read_bytes()
    )
    assert not os.listdir(place.work_dir)
    assert sorted(os.path.splitext(n)[1] for n in os.listdir(place.layers_dir)) == [".erofs", ".json", ".seal"]


@pytest.mark.parametrize("kind", [0x50, 0x5F])
@pytest.mark.parametrize("length", [0, 5])
def test_a_zstd_blob_may_begin_and_end_with_a_frame_that_is_skipped(
    kind: int, length: int, place: Place, tmp_path: Path
) -> None:
    skipped = bytes((kind, 0x2A, 0x4D, 0x18, length, 0, 0, 0)) + b"x" * length
    data = skipped + zstd(GOOD) + skipped
    path = tmp_path / "odd"
    path.write_bytes(data)
    with Image(convert(Blob(str(path), digest(data), digest(GOOD)), place)) as image:
        assert image.find("a")


def test_a_blob_is_the_same_bytes_each_time(place: Place, tmp_path: Path) -> None:
    blob = blob_of(Layer(tar([file("a", b"1" * 10000), Entry("b", "s", link="a")])), tmp_path)
    first = Path(convert(blob, place)).read_bytes()
    os.unlink(layout.layer_path(place.layers_dir, blob.diff_id))
    assert Path(convert(blob, place)).read_bytes() == first


def test_contents_lie_in_the_order_of_the_tar(place: Place, tmp_path: Path) -> None:
    names = ["b", "c", "a"]
    blob = blob_of(Layer(tar([file(name, name.encode() * 10000) for name in names])), tmp_path)
    with Image(convert(blob, place)) as image:
        files = [image.find(name) for name in names]
    starts = [one.start for one in files if one]
    assert starts == sorted(starts) and len(starts) == len(names), "else each was written aside before"


def flipped(blob: Blob) -> Blob:
    data = bytearray(Path(blob.path).read_bytes())
    data[len(data) // 2] ^= 1
    Path(blob.path).write_bytes(data)
    return blob


def cut_short(blob: Blob) -> Blob:
    data = Path(blob.path).read_bytes()[:-20]
    Path(blob.path).write_bytes(data)
    return blob._replace(digest=digest(data))


def lying(blob: Blob) -> Blob:
    return blob._replace(diff_id="sha256:" + "0" * 64)


@pytest.mark.parametrize(
    ("compression", "spoil", "says"),
    [
        ("gzip", flipped, "digest mismatch: "),
        ("", flipped, "digest mismatch: "),
        ("gzip", cut_short, "not valid gzip"),
        ("zstd", cut_short, "not valid zstd"),
        ("gzip", lying, "digest mismatch: .*unpacked"),
    ],
)
def test_a_damaged_layer_is_refused_and_leaves_nothing(
    compression: str, spoil: Callable[[Blob], Blob], says: str, place: Place, tmp_path: Path
) -> None:
    blob = blob_of(Layer(tar([file("a", os.urandom(3000))]), compression), tmp_path)
    with pytest.raises(Corrupt, match=says):
        convert(spoil(blob), place)
    assert left_behind(place) == []


GOOD = tar([file("a", b"1" * 3000)])


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (GOOD[:1500], "valid tar"),
        (b"no tar at all" * 100, "valid tar"),
        (GOOD[:3584] + b"garbage!" * 64, "garbage at byte"),
        (tar([file("../../etc/shadow")]), "outside"),
        (tar([file("a"), Entry("b", "l", link="../a")]), None),
    ],
)
def test_a_layer_that_is_no_proper_tar_is_refused(
    content: bytes, says: str | None, place: Place, tmp_path: Path
) -> None:
    blob = blob_of(Layer(content), tmp_path)
    with pytest.raises(PodError, match=says):
        convert(blob, place)
    assert left_behind(place) == []


@pytest.mark.parametrize("content", [b"", bytes(1024), tar([])])
def test_an_empty_layer_is_a_layer(content: bytes, place: Place, tmp_path: Path) -> None:
    with Image(convert(blob_of(Layer(content), tmp_path), place)) as image:
        root = image.find("")
    assert root is not None
    assert oct(root.mode) == "0o40755"


def test_the_facts_are_the_directories_without_entry_and_the_files_with_capabilities(
    place: Place, tmp_path: Path
) -> None:
    capable = (("security.capability", CAP_NET_RAW),)
    entries = [
        directory("usr/"),
        file("usr/bin/ping", b"ping", 0o755, xattrs=capable),
        Entry("usr/bin/ping6", "l", link="./usr/bin/ping"),
        file("./tmp/deep//er/x"),
        file("opt/.wh..wh..opq", b""),
    ]
    blob = blob_of(Layer(tar(entries)), tmp_path)
    convert(blob, place)
    result = facts.load(layout.facts_path(place.layers_dir, blob.diff_id))
    assert result.implicit == ("", "opt", "tmp", "tmp/deep", "tmp/deep/er", "usr/bin")
    assert result.capable == ("usr/bin/ping", "usr/bin/ping6")


def test_names_that_are_no_unicode_are_kept(place: Place, tmp_path: Path) -> None:
    name = b"d\xff/f\xfe".decode("utf-8", "surrogateescape")
    content = io_tar_with_raw_name(name)
    blob = blob_of(Layer(content), tmp_path)
    with Image(convert(blob, place)) as image:
        assert image.find(name) is not None
    assert facts.load(layout.facts_path(place.layers_dir, blob.diff_id)).implicit == ("", name.split("/")[0])


def io_tar_with_raw_name(name: str) -> bytes:
    import io
    import tarfile

    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT, errors="surrogateescape") as archive:
        archive.addfile(tarfile.TarInfo(name), io.BytesIO())
    return out.getvalue()


def test_many_threads_that_want_one_layer_convert_it_once(place: Place, tmp_path: Path) -> None:
    blob = blob_of(Layer(tar([file("a", b"1" * 100000)])), tmp_path)
    seen: list[int] = []

    def work(number: int) -> None:
        mine = tmp_path / f"tmp{number}"
        mine.mkdir()
        seen.append(os.stat(convert(blob, place._replace(work_dir=str(mine)))).st_ino)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(seen) == 4
    assert len(set(seen)) == 1
    assert len(os.listdir(place.layers_dir)) == 3


def test_a_stopped_conversion_leaves_nothing(place: Place, tmp_path: Path) -> None:
    blob = blob_of(Layer(GOOD), tmp_path)
    with pytest.raises(Stopped):
        convert(blob, place._replace(stop=lambda: True))
    assert left_behind(place) == []


@pytest.mark.parametrize("diff_id", ["", "sha256:", "sha256:../../x", "md5:" + "0" * 64, "sha256:" + "A" * 64])
def test_a_diff_id_that_is_no_digest_never_becomes_a_file_name(diff_id: str, place: Place) -> None:
    with pytest.raises(BadRequest):
        convert(Blob("/nonexistent", "sha256:" + "0" * 64, diff_id), place)


@pytest.mark.parametrize(
    ("code", "last", "kind", "says"),
    [
        (1, "gzip: stdin: unexpected end of file", Corrupt, "is not valid gzip: unexpected end of file"),
        (1, "/*stdin*\\ : Read error (39) : premature end", Corrupt, "is not valid gzip: premature end"),
        (1, "", Corrupt, "is not valid gzip: gzip ended with status 1"),
        (
            1,
            "igzip: Error (null) does not contain a complete gzip file",
            Corrupt,
            "is not valid gzip: it is incomplete;",
        ),
        (1, "igzip: Error encountered while decompressing file (null)", Corrupt, "is not valid gzip: it is damaged;"),
        (159, "", Corrupt, "is not valid gzip: gzip ended by signal 31"),
        (
            1,
            "prlimit: failed to set the AS resource limit",
            PodError,
            r"gzip did not start \(status 1: prlimit: failed",
        ),
        (127, "setpriv: failed to execute gzip: No such file", PodError, r"did not start \(status 127"),
        (125, "IndexError: list index out of range (sandbox.py, line 3)", PodError, r"status 125: IndexError.*sandbox"),
    ],
)
def test_the_error_of_a_layer_has_the_programs_message_alone(
    code: int, last: str, kind: type[PodError], says: str
) -> None:
    error = _failure(Blob("/b", digest(b""), digest(b"")), "gzip", kind="gzip", ended=Ended(code, last))
    assert type(error) is kind and re.search(says, str(error))


def test_a_slow_host_has_time_for_250_000_directories_and_a_layer_may_not_use_a_processor_for_long() -> None:
    """Of a tar of 128 MB in a blob of 1 MB. The limit of elapsed time is for what hangs."""
    size = 250_000 * 512
    assert layers._PACE.base_s + size / layers._PACE.bytes_per_s > 1800
    cpu_s = layers._BASE_S + blob.most_unpacked(1 << 20, Limits()) / layers._BYTES_PER_S
    assert 120 < cpu_s < 300
