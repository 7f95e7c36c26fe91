# SPDX-License-Identifier: Apache-2.0
"""The initrd of a kernel out of an image that carries what no command line can have, and the program in it."""

import gzip
import os
import subprocess
from pathlib import Path
from shutil import which

import pytest

from stage1.errors import BadRequest
from stage1.pod.own_values import OWN_INIT, OWN_INIT_VALUES, Carried
from stage1.rootfs import own_initrd
from tests.fakes.c_program import CHECKOUT


def _make(tmp_path: Path, source: bytes) -> tuple[Path, Path]:
    pod = tmp_path / "p1"
    pod.mkdir(exist_ok=True)
    for name, content in (("source", source), ("own-init", b"program"), ("scratch", None)):
        (tmp_path / name).write_bytes(content) if content is not None else (tmp_path / name).mkdir(exist_ok=True)
    target = tmp_path / "scratch/p1.initrd"
    own_initrd.make(
        f"{tmp_path}/source", f"{target}", program=f"{tmp_path}/own-init", carried=b"P/init\0", directory=f"{pod}"
    )
    return pod, target


def test_the_images_initrd_is_behind_ours_and_may_be_made_again(tmp_path: Path) -> None:
    for source in (gzip.compress(b"one"), b"070701 another"):
        pod, target = _make(tmp_path, source)
        data = target.read_bytes()
        begin = data[: -len(source)]
        assert (data.endswith(source), len(begin) % 512, begin[:6]) == (True, 0, b"070701")
        assert target.stat().st_mode & 0o777 == 0o444
    own_initrd.remove(f"{pod}")
    own_initrd.remove(f"{pod}")
    assert not target.exists()


@pytest.mark.skipif(not which("cpio"), reason="needs cpio")
def test_cpio_unpacks_it(tmp_path: Path) -> None:
    _, target = _make(tmp_path, b"")
    out = tmp_path / "out"
    out.mkdir()
    subprocess.run(["cpio", "-id", "--quiet"], input=target.read_bytes(), cwd=out, check=True)
    assert {str(one.relative_to(out)): one.read_bytes() for one in out.rglob("*") if one.is_file()} == {
        OWN_INIT: b"program", OWN_INIT_VALUES: b"P/init\0",
    }  # fmt: skip
    assert os.access(out / OWN_INIT, os.X_OK)


@pytest.mark.parametrize("head", [b"", b"\x53\xefdisk", b"#!/bin/sh", b"0707"])
def test_what_linux_does_not_unpack_is_refused(tmp_path: Path, head: bytes) -> None:
    (tmp_path / "i").write_bytes(head)
    with pytest.raises(BadRequest, match=r"/the/initrd"):
        own_initrd.require_archive(f"{tmp_path}/i", title="/the/initrd")


@pytest.fixture(scope="module")
def own_init(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program, whose directory is `own_init_files` beside it."""
    if not which("gcc"):
        pytest.skip("needs gcc")
    place = tmp_path_factory.mktemp("own-init")
    flags = ["-std=c17", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Werror", f'-DDIRECTORY="{place}/own_init_files"']
    source = CHECKOUT / "images/own-init/main.c"
    subprocess.run(["gcc", *flags, source, "-o", place / "program"], check=True, timeout=60)
    return place / "program"


def _run(own_init: Path, data: bytes, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    own_init_files = own_init.parent / "own_init_files"
    own_init_files.mkdir(exist_ok=True)
    (own_init_files / "carried").write_bytes(data)
    given = {"HOME": "/", "TERM": "linux"}
    return subprocess.run([own_init, *arguments], capture_output=True, env=given, timeout=20, check=False)


def test_the_program_gets_what_was_carried_and_nothing_stays(own_init: Path) -> None:
    many = tuple(f"V{number}={'x' * 200}" for number in range(300))
    carried = Carried("/usr/bin/env", ("sh", "-c", 'env; echo "$1"', "", "a\nb"), ("HOME=/x", "A=\udc80 \"'\n", *many))
    done = _run(own_init, carried.data, "of-linux")
    lines = done.stdout.split(b"\n")
    assert done.returncode == 0
    assert {b"HOME=/x", b"TERM=linux", b"A=\x80 \"'", b"a", b"V299=" + 200 * b"x"} <= set(lines)
    assert not (own_init.parent / "own_init_files").exists()


def test_arguments_of_linux_stay_where_none_are_carried(own_init: Path) -> None:
    done = _run(own_init, Carried("/bin/echo", (), ("A=1",)).data, "of-linux", "x y")
    assert done.stdout == b"of-linux x y\n"


@pytest.mark.parametrize("data", [b"", b"P", b"Aone", b"P/no/such\0", b"P/a\0P/b\0", b"E\0\0P"])
def test_a_program_that_can_not_be_run_is_reported(own_init: Path, data: bytes) -> None:
    done = _run(own_init, data)
    assert done.returncode == 127
    assert done.stderr.startswith(b"clearpod: ")
