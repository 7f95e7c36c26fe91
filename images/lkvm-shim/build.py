# SPDX-License-Identifier: Apache-2.0
"""kvmtool's memory slots for DAX: the library that `stage1/vm/kvmtool.py` preloads. Needs only gcc and make."""

import os
from pathlib import Path

from lib import cache, tools

SOURCE = Path(__file__).parent


def build(cache_dir: Path) -> Path:
    """The directory with lkvm-shim.so."""
    tools.need({"make": "make", "gcc": "gcc"})
    key = cache.hash_of([tools.run(["gcc", "--version"]), SOURCE])

    def build_beside(out: Path) -> None:
        environment = {"PATH": os.environ["PATH"], "LC_ALL": "C"}
        tools.run(["make", "-C", SOURCE, f"OUT={out}"], env=environment)

    return cache.built(cache_dir, "lkvm-shim", key, build_beside)
