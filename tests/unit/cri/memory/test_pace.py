# SPDX-License-Identifier: Apache-2.0
"""How fast is looked for equal pages, on simulated series of counters."""

import pytest

from cri.memory import pace
from cri.memory.pace import Pace, Sight, decide
from stage1.linux.ksm import Counters
from stage1.linux.pressure import Shortage
from tests.fakes.ksm import Thread

TICK_S = 5.0
LIMIT = 20.0


def simulate(thread: Thread, *, ticks: int, guests: int = 20) -> tuple[list[Pace], Thread]:
    """The paces of so many looks, with as many guests all the time."""
    paces, at, before = [Pace()], 0.0, None
    for _ in range(ticks):
        now = Sight(at, thread.counters, guests, thread_s=thread.used_s)
        paces.append(decide(before, now, pace=paces[-1], max_cpu_percent=LIMIT))
        before, at = now, at + TICK_S
        thread = thread.after(paces[-1].settings(), TICK_S)
    return paces[1:], thread


def test_equal_guests_are_merged_within_a_minute_and_then_only_watched() -> None:
    paces, thread = simulate(Thread(total=150_000, equal=120_000), ticks=40)
    assert paces[0].level == pace.QUICK
    assert simulate(Thread(150_000, 120_000), ticks=12)[1].counters.pages_sharing > 115_000
    assert paces[-1].level == pace.WATCH
    assert thread.counters.pages_sharing == 120_000


def test_where_nothing_is_equal_the_search_slows_down_to_a_watch() -> None:
    paces, _ = simulate(Thread(total=150_000, equal=0), ticks=60)
    levels = [one.level for one in paces]
    assert levels[-1] == pace.WATCH
    assert levels == sorted(levels, reverse=True)
    last = paces[-1].settings()
    assert last.pages_to_scan / last.sleep_millisecs <= 1


def test_the_thread_stays_within_its_share_of_a_processor() -> None:
    slow = Thread(total=400_000, equal=300_000, us_per_page=40)
    paces, thread = simulate(slow, ticks=60)
    used = [one.cpu_percent for one in paces[3:]]
    assert max(used) <= 1.3 * LIMIT
    assert thread.used_s <= 1.1 * LIMIT / 100 * 60 * TICK_S
    assert thread.counters.pages_sharing > 100_000


def test_without_guests_nothing_runs_and_new_guests_wake_it() -> None:
    paces, _ = simulate(Thread(150_000, 0), ticks=50, guests=0)
    assert {one.level for one in paces} == {pace.STOPPED}
    watching = Pace(pace.WATCH)
    counters = Counters(full_scans=9, pages_scanned=1000)
    before, now = Sight(0, counters, 3), Sight(5, counters, 4)
    assert decide(before, now, pace=watching, max_cpu_percent=LIMIT).level == pace.QUICK


def test_a_pod_that_ends_is_no_reason_to_hurry() -> None:
    before = Sight(0, Counters(pages_sharing=5000, pages_scanned=0, full_scans=4), 3)
    now = Sight(5, Counters(pages_sharing=1000, pages_scanned=5000, full_scans=4), 2)
    assert decide(before, now, pace=Pace(pace.WATCH, quiet_from=4), max_cpu_percent=LIMIT).level == pace.WATCH


MERGES = Counters(pages_sharing=9000, pages_scanned=50_000, full_scans=1)
NOTHING = Counters(pages_scanned=50_000, full_scans=9)


@pytest.mark.parametrize(
    ("level", "counters", "host", "expected"),
    [
        (pace.STEADY, MERGES, {}, pace.QUICK),
        (pace.STEADY, MERGES, {"memory_waits": 20.0}, pace.MOST),
        (pace.STEADY, MERGES, {"free_percent": 3.0}, pace.MOST),
        (pace.QUICK, MERGES, {"cpu_waits": 80.0}, pace.STEADY),
        (pace.QUICK, MERGES, {"cpu_waits": 80.0, "memory_waits": 20.0}, pace.MOST),
        (pace.MOST, MERGES, {}, pace.MOST),
        (pace.WATCH, NOTHING, {}, pace.WATCH),
        (pace.MOST, NOTHING, {"memory_waits": 20.0}, pace.QUICK),
    ],
)
def test_what_merges_and_what_is_short_decides(
    level: int, counters: Counters, host: dict[str, float], expected: int
) -> None:
    before, now = Sight(0, Counters(pages_scanned=0), 2, Shortage(**host)), Sight(5, counters, 2, Shortage(**host))
    assert decide(before, now, pace=Pace(level), max_cpu_percent=LIMIT).level == expected


def test_pressure_that_begins_wakes_a_watch() -> None:
    before, now = Sight(0, NOTHING, 2), Sight(5, NOTHING, 2, Shortage(memory_waits=20.0))
    assert decide(before, now, pace=Pace(pace.WATCH), max_cpu_percent=LIMIT).level == pace.QUICK


def test_a_kernel_that_does_not_count_scanned_pages_is_measured_by_the_rate() -> None:
    before, now = Sight(0, Counters(), 2), Sight(5, Counters(pages_sharing=30_000), 2)
    going = Pace(pace.QUICK, pages_per_s=40_000)
    assert decide(before, now, pace=going, max_cpu_percent=LIMIT).level == pace.MOST
    few = now._replace(counters=Counters(pages_sharing=30))
    assert decide(before, few, pace=going, max_cpu_percent=LIMIT).level == pace.QUICK


def test_guests_that_come_in_the_middle_of_a_pass_are_waited_for() -> None:
    """On a host with much other memory the pass that goes on, and the one after it, find nothing in them."""
    late = Thread(total=1_000_000, equal=100_000, progress=0.98)
    _, thread = simulate(late, ticks=120)
    assert thread.counters.pages_sharing == 100_000
