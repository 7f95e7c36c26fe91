# SPDX-License-Identifier: Apache-2.0
"""The launcher of the stage1 image: static, by musl, so that it runs on any host."""

import os
from pathlib import Path

from lib import cache, tools

SOURCE = Path(__file__).parent
DISCARD = SOURCE.parent / "agent" / "discard.ld"


def build(cache_dir: Path) -> Path:
    """The directory with `launcher`."""
    tools.need({"make": "make", "musl-gcc": "musl-tools"})
    versions = [tools.package_version("musl-tools"), tools.run(["musl-gcc", "--version"])]

    def make(out: Path) -> None:
        tools.make(SOURCE, out / "work")
        os.rename(out / "work" / "launcher", out / "launcher")

    return cache.built(cache_dir, "launcher", cache.hash_of([*versions, SOURCE, DISCARD]), make)
