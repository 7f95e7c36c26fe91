# SPDX-License-Identifier: Apache-2.0
"""Chooses the guests whose page cache is reclaimed when the host is short of memory, and how much. Pure; for the
reclaimer.

Only what their kernels call inactive, and half of it each time: no guest comes near its own limit by that, since only
clean cache is asked for.
"""

from collections.abc import Iterable
from typing import NamedTuple

from stage1.linux.pressure import Shortage

WAITS_PERCENT, FREE_PERCENT = 10.0, 5.0
"""The host is short when tasks wait for memory so long, or so little is available."""
WORTH_BYTES = 4 << 20
AT_ONCE = 4
AGAIN_S, AFTER_FAULT_S = 60.0, 600.0
"""Seconds between two requests to one guest, and after a request that failed."""


class Guest(NamedTuple):
    """`cache_bytes` of inactive files; not to be asked before `rests_until_s` (monotonic)."""

    id: str
    cache_bytes: int
    rests_until_s: float = 0.0


class Ask(NamedTuple):
    """How much is reclaimed from a guest."""

    id: str
    bytes: int


def is_short(host: Shortage) -> bool:
    """Whether the host needs memory from guests at all."""
    return host.memory_waits >= WAITS_PERCENT or host.free_percent < FREE_PERCENT


def decide(host: Shortage, guests: Iterable[Guest], *, now_s: float, worth_bytes: int = WORTH_BYTES) -> list[Ask]:
    """Return whom to ask for memory, guests with the most cache first; none while the host has enough."""
    if not is_short(host):
        return []
    worth = [guest for guest in guests if guest.cache_bytes >= worth_bytes and guest.rests_until_s <= now_s]
    worth.sort(key=lambda guest: guest.cache_bytes, reverse=True)
    return [Ask(guest.id, guest.cache_bytes // 2) for guest in worth[:AT_ONCE]]
