# SPDX-License-Identifier: Apache-2.0
"""A disk of one MiB, to be full soon, and one whose files can share blocks."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes import loop_xfs as xfs


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A tmpfs with 512 KiB, unmounted afterwards. Needs root."""
    path = tmp_path / "tiny"
    path.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "tiny", str(path)], stderr=subprocess.PIPE)
    if made.returncode:
        pytest.skip(f"can't mount a tmpfs: {made.stderr.decode().strip()}")
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)


@pytest.fixture
def loop_xfs(tmp_path: Path) -> Iterator[Path]:
    """An XFS of its own, unmounted afterwards."""
    if why := xfs.lack():
        pytest.skip(why)
    with xfs.mounted(tmp_path / "xfs") as place:
        yield place
