# SPDX-License-Identifier: Apache-2.0
"""The real stage1 image for tests: a tree for the fake of rkt, an archive for the real one, built when they changed."""

import fcntl
import os
import subprocess
from pathlib import Path
from typing import Any

from tests.fakes import builders

ROOT = Path(__file__).parents[2]
FILE = "clearpod-stage1.aci"


def tree(guest: Path) -> Path:
    """The unpacked image, `manifest` and `rootfs/`, of the guest in `guest`."""
    with _Lock(guest):
        stage1, parts = _builder(guest)
        return Path(stage1.build_tree(guest / "stage1", parts))


def archive(guest: Path) -> Path:
    """The ACI, as scripts/build-aci makes it."""
    with _Lock(guest):
        subprocess.run([ROOT / "images/build", "aci", "--output", guest], check=True)
    return guest / FILE


class _Lock:
    """Several tests at once build one image."""

    def __init__(self, guest: Path) -> None:
        self._path = guest / "stage1.lock"

    def __enter__(self) -> None:
        self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        fcntl.flock(self._fd, fcntl.LOCK_EX)

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)


def _builder(guest: Path) -> tuple[Any, Any]:
    """The builder of the image, and the parts to build it of."""
    cache = Path(os.environ.get("CLEARPOD_CACHE", "/var/cache/clearpod"))
    launcher = builders.load("launcher").build(cache) / "launcher"
    stage1: Any = builders.load("stage1-aci")
    return stage1, stage1.find_parts(launcher, guest)
