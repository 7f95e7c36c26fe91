# SPDX-License-Identifier: Apache-2.0
"""The library that kvmtool is started with: memory slots for DAX, and a filter. Needs what images/seccomp needs."""

import os
from collections.abc import Iterable
from pathlib import Path

from lib import cache, tools

SOURCE = Path(__file__).parent


def build(cache_dir: Path, filter_inputs: Iterable[str | Path]) -> Path:
    """The directory with lkvm-shim.so. `filter_inputs` are those of images/seccomp, whose filter is inside."""
    tools.need({"make": "make", "gcc": "gcc"})
    key = cache.hash_of([tools.run(["gcc", "--version"]), SOURCE, *filter_inputs])

    def make(out: Path) -> None:
        tools.make(SOURCE, out / "work")
        os.rename(out / "work" / "lkvm-shim.so", out / "lkvm-shim.so")

    return cache.built(cache_dir, "lkvm-shim", key, make)
