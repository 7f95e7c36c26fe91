# SPDX-License-Identifier: Apache-2.0
"""What is packed reads back by other programs, and packs to the same bytes again."""

import json
import shutil
import subprocess
import tarfile

import pytest

from tests.fakes.builders import cpio, oci

ENTRIES = [
    cpio.Entry("dev", cpio.S_DIR | 0o755),
    cpio.Entry("dev/console", cpio.S_CHAR | 0o600, device=(5, 1)),
    cpio.Entry("init", cpio.S_FILE | 0o755, b"12345"),
    cpio.Entry("empty", cpio.S_FILE | 0o644),
    cpio.Entry("a-long-name" * 20, cpio.S_FILE | 0o600, b"x" * 4097),
]


def listing(archive: bytes) -> dict[str, list[str]]:
    """What GNU cpio sees: name -> columns of a long listing."""
    argv = ["cpio", "-itv", "--numeric-uid-gid", "--quiet"]
    lines = subprocess.run(argv, input=archive, capture_output=True, check=True).stdout.decode().splitlines()
    return {columns[-1]: columns for columns in (text.split() for text in lines)}


@pytest.mark.skipif(not shutil.which("cpio"), reason="needs cpio on PATH")
def test_another_cpio_reads_the_archive():
    seen = listing(cpio.archive(ENTRIES))
    assert list(seen) == [entry.name for entry in ENTRIES]
    assert seen["dev"][0] == "drwxr-xr-x" and seen["init"][0] == "-rwxr-xr-x"
    assert seen["dev/console"][0] == "crw-------" and seen["dev/console"][4:6] == ["5,", "1"]
    assert seen["init"][4] == "5" and seen["empty"][4] == "0" and seen["a-long-name" * 20][4] == "4097"
    assert {(columns[2], columns[3]) for columns in seen.values()} == {("0", "0")}


def test_archives_are_whole_blocks_so_that_two_can_follow_each_other():
    assert len(cpio.archive(ENTRIES)) % 512 == 0 and cpio.archive(ENTRIES) == cpio.archive(ENTRIES)


FILES = [
    oci.File("bin/", mode=0o755),
    oci.File("bin/sh", b"#!", 0o4755),
    oci.File("bin/ash", link="bin/sh", hard=True),
    oci.File("bin/dash", link="sh"),
    oci.File("bin/.wh.gone"),
    oci.File("bin/ping", b"p", 0o755, xattrs={"security.capability": "\x01\x02"}, uid=5, gid=6),
]


def test_another_tar_reads_the_layer(tmp_path):
    (tmp_path / "l.tar").write_bytes(oci.tar(FILES))
    with tarfile.open(tmp_path / "l.tar") as archive:
        seen = {info.name: info for info in archive}
    assert seen["bin"].isdir() and seen["bin/sh"].mode == 0o4755 and seen["bin/.wh.gone"].size == 0
    assert seen["bin/ash"].islnk() and seen["bin/dash"].issym() and seen["bin/dash"].linkname == "sh"
    assert seen["bin/ping"].pax_headers["SCHILY.xattr.security.capability"] == "\x01\x02"
    assert (seen["bin/ping"].uid, seen["bin/ping"].gid, seen["bin/ping"].mtime) == (5, 6, 0)


@pytest.mark.parametrize("compression", ["gzip", "zstd", ""])
def test_an_image_comes_out_the_same_twice_and_its_digests_are_true(tmp_path, compression):
    digests = []
    for name in ("one", "two"):
        layers = [oci.tar(FILES), oci.tar(FILES[:1])]
        layout = oci.Layout(tmp_path / name)
        digests.append(layout.add("ref", layers, {"Cmd": ["sh"]}, compression=compression))
    assert digests[0] == digests[1]
    blobs = list((tmp_path / "one" / "blobs" / "sha256").iterdir())
    assert len(blobs) == 4 and all(oci.digest(blob.read_bytes()) == f"sha256:{blob.name}" for blob in blobs)
    manifest = json.loads((tmp_path / "one" / "blobs" / "sha256" / digests[0].removeprefix("sha256:")).read_text())
    assert manifest["layers"][0]["mediaType"].endswith(f"tar+{compression}" if compression else "tar")


@pytest.mark.skipif(not shutil.which("skopeo"), reason="needs skopeo on PATH")
def test_another_program_accepts_the_layout(tmp_path):
    oci.Layout(tmp_path / "layout").add("ref", [oci.tar(FILES)], {"Cmd": ["sh"]})
    argv = ["skopeo", "--insecure-policy", "copy", "-q", f"oci:{tmp_path}/layout:ref", f"dir:{tmp_path}/copy"]
    done = subprocess.run(argv, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
