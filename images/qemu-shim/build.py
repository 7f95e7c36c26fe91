# SPDX-License-Identifier: Apache-2.0
"""The library that QEMU is started with for a guest that is a copy: such a guest can give memory back."""

import os
from pathlib import Path

from lib import cache, tools

SOURCE = Path(__file__).parent


def build(cache_dir: Path) -> Path:
    """The directory with qemu-shim.so."""
    tools.need({"make": "make", "gcc": "gcc"})
    key = cache.hash_of([tools.run(["gcc", "--version"]), SOURCE])

    def make(out: Path) -> None:
        tools.make(SOURCE, out / "work")
        os.rename(out / "work" / "qemu-shim.so", out / "qemu-shim.so")

    return cache.built(cache_dir, "qemu-shim", key, make)
