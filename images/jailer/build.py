# SPDX-License-Identifier: Apache-2.0
"""The program that starts VMMs in their jails: static, by musl, so that it needs nothing of the host's files."""

import os
from pathlib import Path

from lib import cache, tools

SOURCE = Path(__file__).parent


def build(cache_dir: Path) -> Path:
    """The directory with `jailer`."""
    tools.need({"make": "make", "musl-gcc": "musl-tools"}, {"/usr/include/linux/landlock.h": "linux-libc-dev"})
    versions = [tools.package_version("musl-tools"), tools.package_version("linux-libc-dev")]
    versions.append(tools.run(["musl-gcc", "--version"]))

    def make(out: Path) -> None:
        tools.make(SOURCE, out / "work")
        os.rename(out / "work" / "jailer", out / "jailer")

    return cache.built(cache_dir, "jailer", cache.hash_of([*versions, SOURCE]), make)
