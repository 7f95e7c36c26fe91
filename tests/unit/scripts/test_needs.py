# SPDX-License-Identifier: Apache-2.0
"""What scripts install and build before their own work: no more than that needs."""

import subprocess
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[3]
STUBS = """
set -eu
. "$1/scripts/lib.sh"
take_lock() { :; }; release_lock() { :; }; need_packages() { echo "packages $*"; }; need_venv() { echo "venv $*"; }
shift
"$@" one two
"""


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (("need_tests", "quick"), ["venv build test lint", "build quick"]),
        (("need_tests", "all"), ["venv build test lint", "build all"]),
        (("need_pods",), ["venv build test", "build pod"]),
    ],
)
def test_only_tests_need_all_parts_of_the_guest(tmp_path: Path, function: tuple[str, ...], expected: list[str]) -> None:
    (tmp_path / "images").mkdir()
    build = tmp_path / "images/build"
    build.write_text('#!/bin/sh\necho "build $*"\n')
    build.chmod(0o755)
    argv = ["bash", "-c", STUBS, "stubs", CHECKOUT, *function]
    done = subprocess.run(argv, cwd=tmp_path, stdout=subprocess.PIPE, text=True, check=True)
    assert done.stdout.splitlines() == ["packages one two", *expected]


@pytest.mark.parametrize("name", ["conformance", "bench"])
def test_what_runs_pods_needs_their_parts(name: str) -> None:
    assert "need_pods" in (CHECKOUT / "scripts" / name).read_text()


@pytest.mark.parametrize(
    ("release", "code", "said"),
    [
        ('ID=debian\nVERSION_ID="13"\n', 0, ""),
        ("ID=debian\n", 0, ""),
        ('ID=debian\nVERSION_ID="12"\nPRETTY_NAME="Debian 12"\n', 1, "Debian 12"),
        ('ID=ubuntu\nVERSION_ID="26.04"\nPRETTY_NAME="Ubuntu 26.04"\n', 1, "Ubuntu 26.04"),
        (None, 1, "unknown"),
    ],
)
def test_another_system_than_debian_13_is_refused_at_once(
    tmp_path: Path, release: str | None, code: int, said: str
) -> None:
    if release is not None:
        (tmp_path / "os-release").write_text(release)
    argv = ["bash", "-c", '. "$1/scripts/lib.sh"; need_debian "$2"', "name", CHECKOUT, tmp_path / "os-release"]
    done = subprocess.run(argv, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, said in done.stderr, done.stderr.count("\n")) == (code, True, code)
