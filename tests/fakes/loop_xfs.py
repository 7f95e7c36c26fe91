# SPDX-License-Identifier: Apache-2.0
"""An XFS in a file, mounted by a loop device: a file system whose files can share blocks. Needs root and mkfs.xfs
(Debian's xfsprogs).
"""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

BYTES = 2 << 30
"""Of the file, which is sparse; XFS wants 300 MiB at least."""


def lack() -> str:
    """Why there can't be one here, as a sentence; empty if there can."""
    if not shutil.which("mkfs.xfs"):
        return "there is no mkfs.xfs (apt install xfsprogs)"
    if "\txfs\n" not in Path("/proc/filesystems").read_text(encoding="utf-8"):
        return "the host's kernel has no xfs (modprobe xfs)"
    return ""


@contextmanager
def mounted(place: Path) -> Iterator[Path]:
    """An empty one on the new directory `place`, whose file is beside it; both are gone afterwards."""
    file = place.with_suffix(".img")
    with file.open("wb") as disk:
        disk.truncate(BYTES)
    try:
        subprocess.run(["mkfs.xfs", "-q", str(file)], check=True)
        place.mkdir()
        subprocess.run(["mount", "-o", "loop", str(file), str(place)], check=True)
        try:
            yield place
        finally:
            subprocess.run(["umount", str(place)], check=True)
            place.rmdir()
    finally:
        os.unlink(file)
