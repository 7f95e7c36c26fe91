# SPDX-License-Identifier: Apache-2.0
"""Builds the jailer and runs its C tests (check_order.c beside this file). tests/unit/vm/test_jail.py runs it."""

import shutil
import subprocess
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[3]
SOURCES = CHECKOUT / "images" / "jailer"
OUT = CHECKOUT / "build" / "jailer"  # kept between runs: make rebuilds only what changed
LIMIT_BYTES = 60 * 1024
ABSENT = [tool for tool in ("make", "musl-gcc", "gcc") if not shutil.which(tool)]

pytestmark = [
    pytest.mark.skipif(bool(ABSENT), reason=f"not installed: {', '.join(ABSENT)}"),
    pytest.mark.timeout(300),
]


def make(target: str) -> str:
    """Run make; its output is the failure's text."""
    done = subprocess.run(["make", "-C", SOURCES, f"OUT={OUT}", target], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return done.stdout


def test_the_jailer_builds_without_warnings_and_is_small() -> None:
    make("all")
    assert (OUT / "jailer").stat().st_size <= LIMIT_BYTES


def test_the_jailer_needs_no_library() -> None:
    make("all")
    headers = subprocess.run(["readelf", "-lW", OUT / "jailer"], capture_output=True, text=True, check=True).stdout
    assert "INTERP" not in headers


def test_the_parser_keeps_its_promises() -> None:
    assert " cases\n" in make("check")
