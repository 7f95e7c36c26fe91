# SPDX-License-Identifier: Apache-2.0
"""A C program of ours below `images`, built by its Makefile for the tests of it."""

import shutil
import subprocess
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[2]


class CProgram:
    """The one in images/NAME; `out` is kept between runs, so that make rebuilds only what changed."""

    def __init__(self, name: str) -> None:
        self.sources = CHECKOUT / "images" / name
        self.out = CHECKOUT / "build" / name

    def make(self, *targets: str) -> str:
        """Run make; its output is the failure's text."""
        command = ["make", "-C", self.sources, f"OUT={self.out}", *targets]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
        return done.stdout

    def headers(self, file: str) -> str:
        """Build all; the program headers of `file`: INTERP is among those of one that needs libraries."""
        self.make("all")
        done = subprocess.run(["readelf", "-lW", self.out / file], capture_output=True, text=True, check=True)
        return done.stdout


def marks(*tools: str, limit_s: int = 300) -> list[pytest.MarkDecorator]:
    """For `pytestmark`: skipped where a tool is not installed."""
    absent = [tool for tool in tools if not shutil.which(tool)]
    return [
        pytest.mark.skipif(bool(absent), reason=f"not installed: {', '.join(absent)}"),
        pytest.mark.timeout(limit_s),
    ]
