# SPDX-License-Identifier: Apache-2.0
"""Whether the disk of a pod's writable layers is full, as a recorded fact: programs that can't write seldom report it.

Called by the pod with each sample of its guest's statistics. Pure. It concerns the pod's own disk, which the guest
measures; the host's disk is `cri.monitors.disk_guard`'s subject.
"""

from cri.store import history
from cri.store.history import Fact
from stage1.guest.messages import PodStats

FULL_PERCENT, CLEARED_PERCENT = 99, 95
"""Apart, so that a disk at its edge is not told of again and again."""
MIB = 1 << 20


def change(known: tuple[Fact, ...], numbers: PodStats) -> Fact | None:
    """The fact that these statistics reveal: that the disk is full now, or has space again; None if it is known
    already.
    """
    last = next((one for one in reversed(known) if one.what in (history.FULL, history.NOT_FULL)), None)
    was_full = last is not None and last.what == history.FULL
    lack = _lack(numbers, percent=CLEARED_PERCENT if was_full else FULL_PERCENT)
    if bool(lack) == was_full:
        return None
    whose = f"the disk of its containers' layers, with {numbers.disk_bytes // MIB} MiB for files,"
    return (
        Fact(history.FULL, text=f"{whose} {lack}") if lack else Fact(history.NOT_FULL, text=f"{whose} has space again")
    )


def _lack(numbers: PodStats, *, percent: int) -> str:
    if numbers.disk_bytes and numbers.disk_free * 100 <= numbers.disk_bytes * (100 - percent):
        return "is full"
    if numbers.disk_inodes and numbers.disk_inodes_free * 100 <= numbers.disk_inodes * (100 - percent):
        return "has no inodes left, so that no file can be created"
    return ""
