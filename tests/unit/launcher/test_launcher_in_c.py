# SPDX-License-Identifier: Apache-2.0
"""Builds the launcher and runs its C tests (check_launcher.c beside this file)."""

import shutil
import subprocess
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[3]
SOURCES = CHECKOUT / "images" / "launcher"
OUT = CHECKOUT / "build" / "launcher"  # kept between runs: make rebuilds only what changed
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


def test_the_launcher_builds_without_warnings_and_is_small() -> None:
    make("all")
    assert (OUT / "launcher").stat().st_size <= LIMIT_BYTES


def test_the_launcher_needs_no_library() -> None:
    make("all")
    headers = subprocess.run(["readelf", "-lW", OUT / "launcher"], capture_output=True, text=True, check=True).stdout
    assert "INTERP" not in headers


def test_the_pure_parts_keep_their_promises() -> None:
    assert " cases\n" in make("check")
