# SPDX-License-Identifier: Apache-2.0
"""When callers of statistics are expected again, and that they wait for no guest then."""

import asyncio
import time
from typing import Any

import pytest

from cri.statistics import forecast
from cri.statistics.samples import samples_of
from stage1.guest.messages import ContainerStats, PodStats, Reply, Stats
from tests.fakes.one_pod import OnePod

S = 1_000_000_000


TIMES = [
    ([0], []),
    ([0, 10], []),
    ([0, 10, 20], [10]),
    ([0, 10, 20.3, 30, 39.8], [9.8]),
    ([0, 10, 20, 30, 40, 50], [10]),
    ([0, 10, 21], []),
    ([0, 1, 50], []),
    ([0, 90, 180], []),
    ([0, 10, 15, 20, 30], [10, 15]),
    ([0, 1.3, 2.6, 3.9], [1.3]),
]


@pytest.mark.parametrize(("times", "expected"), TIMES)
def test_who_has_asked_at_regular_times_is_expected_again(times: list[float], expected: list[float]) -> None:
    assert forecast.periods(times) == pytest.approx(expected)


CALLERS = [
    ("first", [(0, 0)], [1.0]),
    ("first, of a slow guest", [(0, 0.7)], [1.7]),
    ("second: the pause is assumed", [(0, 0), (10, 10)], [20]),
    ("second, after a slow answer", [(0, 0.5), (1.6, 1.6)], [2.7]),
    ("pauses after slow and quick answers", [(0, 1), (2.1, 3.1), (4.2, 4.2)], [5.3, 6.3]),
    ("equal periods, unequal answers", [(0, 1), (10, 10), (20, 20.9)], [30]),
    ("equal periods and answers", [(0, 0.2), (10, 10.2), (20, 20.2)], [30]),
    ("no pattern: as long as last time", [(0, 0), (10, 10), (21, 21), (25, 25)], [29]),
    ("too long ago", [(0, 0), (70, 70)], [71]),
    ("two of one moment", [(0, 0), (0.5, 0.5)], []),
    ("two in a row", [(0, 1), (1.05, 1.06)], []),
    ("in a row, then again", [(0, 1), (1.05, 1.06), (11, 11)], [20.94]),
    ("two callers", [(0, 0), (10, 10), (15, 15), (20, 20), (30, 30)], [40, 45]),
]


@pytest.mark.parametrize(("times", "expected"), [one[1:] for one in CALLERS], ids=[one[0] for one in CALLERS])
def test_a_caller_is_expected_at_its_period_or_after_its_pause(
    times: list[tuple[float, float]], expected: list[float]
) -> None:
    one, result = forecast.Times(), []
    for asked_s, answered_s in times:
        one.add(asked_s)
        result = one.answered(answered_s)
    assert result == pytest.approx(expected)


def test_a_query_during_another_takes_no_forecast_from_it() -> None:
    one = forecast.Times()
    one.add(0)
    one.add(0.2)
    assert (one.answered(0.5), one.answered(0.6)) == ([1.5], [])


def test_only_the_last_times_count() -> None:
    times = forecast.Times()
    for at in (*range(forecast.KEPT), 50, 51, 52, 60, 70):
        times.add(100 * at)
        times.answered(100 * at)
    assert len(times._times) == forecast.KEPT


class InstantLoop(asyncio.SelectorEventLoop):
    """Where all wait it is the next moment for which somebody waits."""

    now_s = 1000.0

    def __init__(self) -> None:
        super().__init__()
        select = self._selector.select  # type: ignore[attr-defined]

        def at_once(timeout: float | None) -> Any:
            self.now_s += timeout or 0
            return select(0)

        self._selector.select = at_once  # type: ignore[attr-defined]

    def time(self) -> float:
        return self.now_s


GUESTS = [(0.0, 1.1), (0.025, 1.1), (0.3, 1.1), (0.29, 1.0), (0.6, 1.3), (0.1, 0.95), (0.4, 10.0)]


@pytest.mark.parametrize(("guest_s", "pause_s"), GUESTS)
def test_who_pauses_as_long_each_time_waits_for_no_guest_from_the_third_query_on(
    guest_s: float, pause_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also of guests whose answers are slow, which make the first periods longer than the others."""
    loop, asked = InstantLoop(), []
    monkeypatch.setattr(time, "monotonic", loop.time)
    monkeypatch.setattr(time, "time_ns", lambda: round(loop.now_s * S))

    async def ask(op: Stats, timeout_s: float) -> Reply:
        asked.append(op)
        await asyncio.sleep(guest_s)
        return Reply(stats=(ContainerStats("c"),), pod=PodStats())

    async def ages() -> list[float]:
        pod, result = OnePod(ask, {"c"}), []
        for _round in range(8):
            ((_, sample),) = await samples_of([pod])
            now_s = time.monotonic()
            result.append(round(now_s - sample.unix_ns / S, 6))
            await asyncio.sleep(pause_s)
        await pod.meter.close()
        return result

    begun_s = loop.now_s
    try:
        result = loop.run_until_complete(ages())
    finally:
        loop.close()
    assert all(0 <= age < 1 for age in result)
    waited_s = loop.now_s - begun_s - 8 * pause_s
    assert waited_s <= 4 * guest_s + 0.01, "the first two, of which one may have counted the disk first"
    assert sum(not op.disk for op in asked) <= 10, "once for each, and twice more until it was known"


def test_a_pod_that_begins_between_two_lists_delays_none_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    loop, lists, waited_s = InstantLoop(), forecast.Lists(), []
    monkeypatch.setattr(time, "monotonic", loop.time)
    monkeypatch.setattr(time, "time_ns", lambda: round(loop.now_s * S))

    async def ask(op: Stats, timeout_s: float) -> Reply:
        await asyncio.sleep(0.2)
        return Reply(stats=(ContainerStats("c"),), pod=PodStats())

    async def node() -> None:
        pods = [OnePod(ask, {"c"}, lists=lists)]
        for _round in range(6):
            begun_s = time.monotonic()
            samples = await samples_of(pods)
            assert len(samples) == len(pods)
            assert all(0 <= time.monotonic() - sample.unix_ns / S + 1e-6 < 1 for _, sample in samples)
            waited_s.append(time.monotonic() - begun_s)
            await asyncio.sleep(4)
            pods.append(OnePod(ask, {"c"}, lists=lists))
            pods[-1].meter.begin(lambda: True)
            await asyncio.sleep(6)
        for pod in pods:
            await pod.meter.close()

    try:
        loop.run_until_complete(node())
    finally:
        loop.close()
    assert waited_s[0] > 0
    assert waited_s[2:] == pytest.approx([0] * 4, abs=1e-6)


def test_expected_lists_are_forgotten_when_they_have_passed_and_bounded() -> None:
    lists = forecast.Lists()
    for at in range(100):
        lists.note(False, [at, at + 0.1])
    assert lists.after(False, 97) == [98, 99]
    assert lists.after(True, 0) == []
    assert len(lists.after(False, 0)) <= forecast.KEPT
