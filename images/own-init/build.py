# SPDX-License-Identifier: Apache-2.0
"""The first program of an initrd out of an image, for what of a pod no command line can have (main.c). Static, since
that initrd is somebody else's.
"""

import os
from pathlib import Path

from lib import cache, tools

NAME = "own-init"
SOURCE = Path(__file__).with_name("main.c")
COMPILE = ("musl-gcc", "-std=c17", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Werror", "-Os", "-g0", "-static", "-s")


def build(cache_dir: Path) -> Path:
    """The directory with `own-init`."""
    tools.need({"musl-gcc": "musl-tools"})
    versions = [tools.package_version("musl-tools"), tools.run(["musl-gcc", "--version"])]
    environment = {"PATH": os.environ["PATH"], "LC_ALL": "C"}
    return cache.built(
        cache_dir,
        NAME,
        cache.hash_of([*versions, *COMPILE, SOURCE]),
        lambda out: tools.run([*COMPILE, SOURCE, "-o", out / NAME], env=environment),
    )
