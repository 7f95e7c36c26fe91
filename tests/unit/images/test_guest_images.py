# SPDX-License-Identifier: Apache-2.0
"""The system image and the sample image, really built: what is in them, and the same bytes twice."""

import ctypes
import errno
import json
import shutil
import subprocess

import pytest

pytestmark = pytest.mark.skipif(
    not all(map(shutil.which, ("mkfs.erofs", "crun", "busybox"))), reason="needs mkfs.erofs, crun and busybox on PATH"
)


@pytest.fixture(scope="module")
def system(builder, tmp_path_factory):
    return builder("guest").build(tmp_path_factory.mktemp("cache")) / "system.erofs"


@pytest.fixture
def extracted(system, tmp_path):
    subprocess.run(["fsck.erofs", f"--extract={tmp_path}/root", system], check=True, capture_output=True)
    return tmp_path / "root"


def test_the_system_image_is_the_same_when_built_again(builder, system, tmp_path):
    assert (builder("guest").build(tmp_path) / "system.erofs").read_bytes() == system.read_bytes()


def test_the_system_image_can_be_mapped_in_huge_pages(system):
    assert system.stat().st_size % (2 << 20) == 0


def test_the_system_image_holds_all_that_crun_loads(extracted):
    """Here with the image's loader and libraries alone, which bind all of crun's functions at its start."""
    places = {path.parent for path in extracted.rglob("*.so*")}
    loader = next((extracted / "usr/lib64").glob("ld-*"))
    argv = [loader, "--inhibit-cache", "--library-path", ":".join(map(str, places)), extracted / "usr/bin/crun"]
    assert b"crun" in subprocess.run([*argv, "--version"], capture_output=True, check=True).stdout
    listed = subprocess.run([loader, "--list", *argv[1:]], capture_output=True, text=True, check=True).stdout
    assert not [line for line in listed.splitlines() if "=>" in line and str(extracted) not in line]


def test_crun_has_a_library_that_can_do_nothing_in_place_of_systemds(extracted):
    (library,) = extracted.rglob("libsystemd.so.0")
    assert library.stat().st_size < 32 << 10 and not [*extracted.rglob("libm.*")]
    function = ctypes.CDLL(str(library)).sd_notify
    function.restype = ctypes.c_long
    assert function() == -errno.ENOSYS


def test_the_system_image_has_every_place_the_agent_mounts_on(extracted):
    assert all((extracted / name).is_dir() for name in ("proc", "sys", "dev", "run", "tmp"))
    assert {path.stat().st_uid for path in extracted.rglob("*")} == {0}


def test_the_system_image_holds_no_shell(extracted):
    assert not [path for path in extracted.rglob("*") if path.name in ("sh", "bash", "dash", "busybox")]


def test_the_sample_image_is_the_same_when_built_again(builder, tmp_path):
    sample = builder("sample")
    digests = []
    for name in ("one", "two"):
        index = json.loads((sample.build(tmp_path / name) / "sample" / "index.json").read_text())
        digests.append([manifest["digest"] for manifest in index["manifests"]])
    assert digests[0] == digests[1] and len(digests[0]) == 1
