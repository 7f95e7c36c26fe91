# SPDX-License-Identifier: Apache-2.0
"""A small disk that can be full: a real ext4 in a file, mounted for a test. Needs root and loop devices."""

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from stage1.linux import mount

MIB = 1 << 20


class SmallDisk:
    """`place` is where it is mounted."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self._ballast = place / "ballast"

    @property
    def device(self) -> int:
        """Its st_dev."""
        return os.stat(self.place).st_dev

    @property
    def size_bytes(self) -> int:
        """All of it."""
        result = os.statvfs(self.place)
        return result.f_blocks * result.f_frsize

    @property
    def free_bytes(self) -> int:
        """What somebody who is not root can still write."""
        result = os.statvfs(self.place)
        return result.f_bavail * result.f_frsize

    def fill(self, *, leave: int = 0) -> None:
        """Take all that is free but `leave` bytes."""
        with self._ballast.open("ab", buffering=0) as file:
            for size in (MIB, 4096, 1):
                with contextlib.suppress(OSError):
                    while file.write(b"x" * size):
                        pass
        if leave:
            os.truncate(self._ballast, max(0, self._ballast.stat().st_size - leave))

    def free(self) -> None:
        """Undo `fill`; idempotent."""
        self._ballast.unlink(missing_ok=True)


@contextlib.contextmanager
def small_disk(image: Path, place: Path, *, mib: int) -> Iterator[SmallDisk]:
    """A disk of so many MiB on `place`, which is made; all of it is for everybody, nothing is kept for root."""
    place.mkdir(parents=True)
    with image.open("wb") as file:
        file.truncate(mib * MIB)
    options = ("-q", "-F", "-m", "0", "-N", "8192", "-O", "^has_journal")
    subprocess.run(["mkfs.ext4", *options, str(image)], check=True, timeout=60)
    argv = ["mount", "-o", "loop,errors=remount-ro", str(image), str(place)]
    made = subprocess.run(argv, stderr=subprocess.PIPE, text=True, timeout=60)
    if made.returncode:
        pytest.skip(f"can't mount a file as a disk: {made.stderr.strip()}")
    try:
        yield SmallDisk(place)
    finally:
        mount.umount(str(place), lazy=True)
        image.unlink()
