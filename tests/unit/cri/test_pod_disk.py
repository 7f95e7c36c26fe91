# SPDX-License-Identifier: Apache-2.0
"""When a pod's own disk is recorded as full, and as having space again: once each, also while it varies at the
limit.
"""

import pytest

from cri.live.changes import disk_fact
from cri.store import history as h
from cri.store.history import Fact
from stage1.guest.messages import PodStats


def disk(free: int, inodes_free: int = 50, *, size: int = 1000) -> PodStats:
    return PodStats(disk_bytes=size, disk_free=free, disk_inodes=100, disk_inodes_free=inodes_free)


FULL, NOT_FULL = Fact(h.FULL), Fact(h.NOT_FULL)


@pytest.mark.parametrize(
    "known, numbers, what",
    [
        ((), disk(500), ""),
        ((), disk(11), ""),
        ((), disk(10), h.FULL),
        ((), disk(0), h.FULL),
        ((), disk(500, 0), h.FULL),
        ((), PodStats(), ""),  # an agent that could not tell
        ((FULL,), disk(0), ""),
        ((FULL,), disk(50), ""),
        ((FULL,), disk(51), h.NOT_FULL),
        ((FULL,), disk(500, 5), ""),
        ((FULL, NOT_FULL), disk(500), ""),
        ((FULL, NOT_FULL, Fact(h.STARTED)), disk(5), h.FULL),
        ((NOT_FULL, FULL), disk(500), h.NOT_FULL),
    ],
)
def test_a_full_disk_is_recorded_once(known: tuple[Fact, ...], numbers: PodStats, what: str) -> None:
    new = disk_fact(known, numbers)
    assert (new.what if new else "") == what
