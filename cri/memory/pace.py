# SPDX-License-Identifier: Apache-2.0
"""How fast the kernel shall look for equal pages: from what it found lately, and how short the host is. Pure.

Called by `merger` every few seconds. New guests bring pages that were not scanned yet, so they start a fast scan; as
long as enough merges it goes faster, and when three passes over all memory find nothing it goes slower, down to a watch
that costs next to nothing. Without guests all is as it was before us.
"""

from typing import NamedTuple

from stage1.linux.ksm import RUN, Counters, Settings
from stage1.linux.pressure import Shortage

RATES = (0, 1_000, 10_000, 100_000, 400_000)
"""Pages per second of each level, as far as the share of a processor allows."""
STOPPED, WATCH, STEADY, QUICK, MOST = range(5)
NAMES = ("stopped", "watch", "steady", "quick", "fastest")
LEAST_YIELD = 0.005
"""The share of scanned pages that must merge to keep the speed. An idle guest always dirties some."""
QUIET_SCANS = 3
"""A page merges at its second pass, when it has not changed since the first, and new guests are looked at when the pass
that is going on has ended."""
SHORT_PERCENT, FREE_PERCENT = 5.0, 10.0
"""The host is short of memory when tasks wait for it so long, or so little is available."""
BUSY_PERCENT = 50.0
"""Processors are short when tasks wait for them so long: merging is no hurry then, unless memory is short too."""
UNKNOWN_PAGES_PER_S = 40_000.0
"""While nothing is known about what a page costs on this processor."""
WATCH_SLEEP_MS, SLEEP_MS = 200, 20
ENOUGH_PAGES = 1000
"""How many pages are needed for a measurement: the thread's time for fewer is lost in the clock's resolution."""


class Sight(NamedTuple):
    """One look at the host. `thread_s` is the processor time of the kernel's thread, `at_s` monotonic."""

    at_s: float
    counters: Counters
    guests: int
    host: Shortage = Shortage()
    thread_s: float = 0.0

    @property
    def is_short(self) -> bool:
        """Whether the host needs memory."""
        return self.host.memory_waits >= SHORT_PERCENT or self.host.free_percent < FREE_PERCENT


class Pace(NamedTuple):
    """The state of the control loop. `quiet_from` is the number of the pass since which nothing has merged;
    `page_cost_s` the thread's time for a page, 0 while unknown. `merge_ratio` and `cpu_percent` are measured.
    """

    level: int = STOPPED
    pages_per_s: float = 0.0
    quiet_from: int = 0
    page_cost_s: float = 0.0
    merge_ratio: float = 0.0
    cpu_percent: float = 0.0

    @property
    def name(self) -> str:
        """The level in a word."""
        return NAMES[self.level]

    def settings(self) -> Settings:
        """The value to write, unless it is STOPPED. Rounded to two digits, so that small changes write nothing."""
        sleep_ms = WATCH_SLEEP_MS if self.level == WATCH else SLEEP_MS
        pages = self.pages_per_s * sleep_ms / 1000
        return Settings(RUN, max(1, int(float(f"{pages:.2g}"))), sleep_ms, 1)


def decide(before: Sight | None, now: Sight, *, pace: Pace, max_cpu_percent: float) -> Pace:
    """The pace from now on. `before` is the look on which `pace` was decided, None at the first."""
    if before is not None and pace.level != STOPPED:
        pace = _measured(before, now, pace=pace)
    level, quiet_from = _level(before, now, pace=pace)
    level = min(level, STEADY if now.host.cpu_waits >= BUSY_PERCENT and not now.is_short else MOST)
    most = max_cpu_percent / 100 / pace.page_cost_s if pace.page_cost_s else UNKNOWN_PAGES_PER_S
    return pace._replace(level=level, pages_per_s=min(RATES[level], most), quiet_from=quiet_from)


def _measured(before: Sight, now: Sight, *, pace: Pace) -> Pace:
    """Return the pace with what was measured since `before`: cost of a page, part of pages merged, processor use."""
    took_s, used_s = max(now.at_s - before.at_s, 0.001), max(now.thread_s - before.thread_s, 0.0)
    counted = now.counters.pages_scanned >= 0
    pages = now.counters.pages_scanned - before.counters.pages_scanned if counted else pace.pages_per_s * took_s
    new = max(now.counters.saved - before.counters.saved, 0)
    if pages <= 0:
        return pace._replace(merge_ratio=0.0, cpu_percent=round(100 * used_s / took_s, 1))
    return pace._replace(
        page_cost_s=used_s / pages if pages >= ENOUGH_PAGES else pace.page_cost_s,
        merge_ratio=round(new / pages, 4),
        cpu_percent=round(100 * used_s / took_s, 1),
    )


def _level(before: Sight | None, now: Sight, *, pace: Pace) -> tuple[int, int]:
    """The level, and the pass since when nothing has merged."""
    scans = now.counters.full_scans
    if not now.guests:
        return STOPPED, scans
    if before is None or pace.level == STOPPED or now.guests > before.guests:
        return max(pace.level, QUICK), scans
    if now.is_short and not before.is_short:
        return max(pace.level, QUICK), scans
    if pace.merge_ratio >= LEAST_YIELD:
        return min(MOST if now.is_short else pace.level + 1, MOST), scans
    if scans - pace.quiet_from >= QUIET_SCANS:
        return max(pace.level - 1, WATCH), scans
    return pace.level, pace.quiet_from
