# SPDX-License-Identifier: Apache-2.0
"""A C program of ours below `images`, built by its Makefile for the tests of it, by one process at a time."""

import fcntl
import os
import shutil
import subprocess
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[2]


def make(sources: Path, out: Path, *targets: str) -> str:
    """Run make in `sources`, and return its output, which is the failure's text. Tests that run side by side wait."""
    directory = os.open(sources, os.O_RDONLY | os.O_CLOEXEC)  # as a lock it is there even where nothing can be written
    try:
        fcntl.flock(directory, fcntl.LOCK_EX)
        place = os.path.relpath(os.path.realpath(out), os.path.realpath(sources))  # make knows no spaces in names
        command = ["make", "-C", sources, f"OUT={place}", *targets]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    finally:
        os.close(directory)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return done.stdout


class CProgram:
    """The one in images/NAME; `out` is kept between runs, so that make rebuilds only what changed."""

    def __init__(self, name: str) -> None:
        self.sources = CHECKOUT / "images" / name
        self.out = CHECKOUT / "build" / name

    def make(self, *targets: str) -> str:
        """Run make; its output is the failure's text."""
        return make(self.sources, self.out, *targets)

    def headers(self, file: str) -> str:
        """Build all; the program headers of `file`: INTERP is among those of one that needs libraries."""
        self.make("all")
        done = subprocess.run(["readelf", "-lW", self.out / file], capture_output=True, text=True, check=True)
        return done.stdout


def marks(*tools: str, limit_s: int = 300) -> list[pytest.MarkDecorator]:
    """For `pytestmark`: slow, and skipped where a tool is not installed."""
    absent = [tool for tool in tools if not shutil.which(tool)]
    return [
        pytest.mark.slow,
        pytest.mark.skipif(bool(absent), reason=f"not installed: {', '.join(absent)}"),
        pytest.mark.timeout(limit_s),
    ]
