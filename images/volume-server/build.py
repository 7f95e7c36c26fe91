# SPDX-License-Identifier: Apache-2.0
"""The program that serves a pod's volumes of the host: static, by musl, so that it needs no file of the host."""

import os
from pathlib import Path

from lib import cache, tools

SOURCE = Path(__file__).parent


def build(cache_dir: Path) -> Path:
    """The directory with `volume-server`."""
    tools.need({"make": "make", "musl-gcc": "musl-tools"}, {"/usr/include/linux/fuse.h": "linux-libc-dev"})
    versions = [tools.package_version("musl-tools"), tools.package_version("linux-libc-dev")]
    versions.append(tools.run(["musl-gcc", "--version"]))

    def make(out: Path) -> None:
        tools.make(SOURCE, out / "work")
        os.rename(out / "work" / "volume-server", out / "volume-server")

    return cache.built(cache_dir, "volume-server", cache.hash_of([*versions, SOURCE]), make)
