# SPDX-License-Identifier: Apache-2.0
"""The daemon is notified of changes of the host's mounts: of a burst once, and of those during its pause. Needs
root.
"""

import asyncio
import time
from pathlib import Path

import pytest

from cri.monitors import mounts
from cri.monitors.mounts import Follower
from stage1.linux import mount
from tests.fakes.patience import PATIENCE

BURST = 40


class Counting(Follower):
    """Counts how often the loop is taken by a change."""

    def __init__(self) -> None:
        super().__init__(list)
        self.heard = 0

    def _mounts_changed(self) -> None:
        self.heard += 1
        super()._mounts_changed()


async def heard(follower: Counting, more_than: int) -> None:
    async with asyncio.timeout(20 * PATIENCE):
        while follower.heard <= more_than:
            await asyncio.sleep(0.005)


def burst(path: Path) -> float:
    """Mount and unmount many times; how long that took."""
    begun = time.monotonic()
    for _ in range(BURST):
        mount.bind(str(path), str(path))
        mount.umount(str(path))
    return time.monotonic() - begun


async def test_a_burst_of_mounts_is_noticed_once_per_pause_and_its_end_is_not_missed(tmp_path: Path) -> None:
    follower = Counting()
    follower.open()
    try:
        took_s = await asyncio.to_thread(burst, tmp_path)
        await heard(follower, 0)
        assert follower.heard <= 2 + took_s / mounts.IDLE_S, "no volume follows"
        await asyncio.sleep(2 * mounts.IDLE_S)
        before = follower.heard
        await asyncio.to_thread(burst, tmp_path)
        await heard(follower, before)
    finally:
        await follower.close()


async def test_one_that_is_closed_during_its_pause_gets_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mounts, "IDLE_S", 0.05)
    follower = Counting()
    follower.open()
    await asyncio.to_thread(burst, tmp_path)
    await heard(follower, 0)
    await follower.close()
    before = follower.heard
    await asyncio.to_thread(burst, tmp_path)
    await asyncio.sleep(0.2)
    assert follower.heard == before
