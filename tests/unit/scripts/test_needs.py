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
"$2" one two
"""


@pytest.mark.parametrize(
    ("function", "expected"),
    [("need_all", ["venv build test lint", "build all"]), ("need_pods", ["venv build test", "build pod"])],
)
def test_only_tests_need_all_parts_of_the_guest(tmp_path: Path, function: str, expected: list[str]) -> None:
    (tmp_path / "images").mkdir()
    build = tmp_path / "images/build"
    build.write_text('#!/bin/sh\necho "build $*"\n')
    build.chmod(0o755)
    argv = ["bash", "-c", STUBS, "stubs", CHECKOUT, function]
    done = subprocess.run(argv, cwd=tmp_path, stdout=subprocess.PIPE, text=True, check=True)
    assert done.stdout.splitlines() == ["packages one two", *expected]


@pytest.mark.parametrize("name", ["conformance", "bench"])
def test_what_runs_pods_needs_their_parts(name: str) -> None:
    assert "need_pods" in (CHECKOUT / "scripts" / name).read_text()
