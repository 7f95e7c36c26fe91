# SPDX-License-Identifier: Apache-2.0
"""Rates from samples, questions to a guest that is slow or lies, and lists in pieces."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from cri.pb import runtime_pb2 as pb
from cri.statistics import meter
from cri.statistics.meter import Meter
from cri.statistics.sample import MissedTime, Rates
from cri.statistics.samples import sample_of, samples_of
from cri.translate.chunks import chunks
from stage1.errors import PodError, TimedOut
from stage1.guest.checked import MAX_CPU_US
from stage1.guest.messages import ContainerStats, CpuStats, PodStats, Reply, Stats
from tests.fakes.one_pod import OnePod

MS, S = 1_000_000, 1_000_000_000


def _one(name: str, at_ns: int, used_us: int) -> ContainerStats:
    return ContainerStats(name, at_ns, CpuStats(used_us))


RATES = [
    ([(0, 0)], None),
    ([(0, 0), (1 * S, 500_000)], 500_000_000),
    ([(0, 0), (1 * S, 2_000_000)], 2_000_000_000),
    ([(0, 0), (400 * MS, 400_000)], None),
    ([(0, 0), (400 * MS, 400_000), (800 * MS, 400_000)], 500_000_000),
    ([(0, 0), (1 * S, 500_000), (1 * S + MS, 500_000)], 500_000_000),
    ([(0, 0), (1 * S, 500_000), (3 * S, 500_000)], 0),
    ([(9 * S, 900), (1 * S, 0)], None),
    ([(1 * S, 900), (2 * S, 0), (3 * S, 100_000)], 100_000_000),
    ([(1 * S, 0), (1 * S, 0)], None),
]


@pytest.mark.parametrize(("samples", "rate"), RATES)
def test_rates_are_taken_between_samples_that_are_far_enough_apart(
    samples: list[tuple[int, int]], rate: int | None
) -> None:
    rates = Rates()
    result: dict[str, int] = {}
    for at_ns, used_us in samples:
        result = rates.update(PodStats(at_ns, CpuStats(used_us)), [_one("c", at_ns, used_us)])
    assert result.get("c") == result.get("") == rate


def test_who_is_gone_has_no_rate_any_more() -> None:
    rates = Rates()
    rates.update(PodStats(0), [_one("c", 0, 0)])
    assert "c" in rates.update(PodStats(S), [_one("c", S, 1)])
    assert "c" not in rates.update(PodStats(2 * S), [])


WHOLE = [
    ([(100, [40, 50])], [100]),
    ([(80, [40, 50])], [90]),
    ([(80, [40, 50]), (85, [])], [90, 95]),
    ([(80, [90]), (100, [105])], [90, 110]),
    ([(80, [90]), (100, [115])], [90, 115]),
    ([(0, [MAX_CPU_US, MAX_CPU_US]), (MAX_CPU_US, [])], [MAX_CPU_US, MAX_CPU_US]),
]


@pytest.mark.parametrize(("moments", "wholes"), WHOLE)
def test_a_pod_has_used_no_less_than_its_containers_and_its_time_never_goes_back(
    moments: list[tuple[int, list[int]]], wholes: list[int]
) -> None:
    missed, result = MissedTime(), []
    for whole_us, used_us in moments:
        pod = missed.added(PodStats(0, CpuStats(whole_us)), [_one(f"c{i}", 0, us) for i, us in enumerate(used_us)])
        result.append(pod.cpu.usage_us if pod.cpu else None)
    assert result == wholes


def test_a_guest_without_a_total_time_gets_none() -> None:
    assert MissedTime().added(PodStats(0), [_one("c", 0, 5)]).cpu is None


KNOWN = {"c", "d", *(f"c{number}" for number in range(5))}


def _answers(pages: list[Reply]) -> Callable[[Stats, float], Awaitable[Reply]]:
    waiting = list(pages)

    async def ask(op: Stats, timeout_s: float) -> Reply:
        return waiting.pop(0) if len(waiting) > 1 else waiting[0]

    return ask


async def test_the_pages_of_an_answer_are_put_together() -> None:
    asked: list[Stats] = []

    async def ask(op: Stats, timeout_s: float) -> Reply:
        asked.append(op)
        names = [f"c{number}" for number in range(op.first, min(op.first + 2, 5))]
        stats = tuple(ContainerStats(name) for name in names)
        return Reply(stats=stats, pod=PodStats(next=op.first + 2 if op.first + 2 < 5 else 0))

    sample = await Meter(ask, KNOWN).sample()
    assert list(sample.containers) == ["c0", "c1", "c2", "c3", "c4"]
    assert [op.first for op in asked] == [0, 2, 4]


async def test_statistics_of_a_guest_that_never_end_are_cut_off() -> None:
    sample = await Meter(_answers([Reply(pod=PodStats(next=1))]), KNOWN).sample()
    assert sample.containers == {}


async def test_an_answer_without_numbers_is_an_error() -> None:
    with pytest.raises(PodError, match="Stats without"):
        await Meter(_answers([Reply()]), KNOWN).sample()


async def test_many_who_ask_at_once_share_one_question() -> None:
    asked: list[Stats] = []

    async def ask(op: Stats, timeout_s: float) -> Reply:
        asked.append(op)
        await asyncio.sleep(0.01)
        return Reply(pod=PodStats())

    one = Meter(ask, KNOWN)
    await asyncio.gather(*(one.sample() for _ in range(20)))
    assert asked == [Stats(disk=True)], "the first answer has everything"


async def test_a_sample_of_the_last_moment_serves_until_a_container_comes_or_it_is_old(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def ask(op: Stats, timeout_s: float) -> Reply:
        return Reply(stats=(ContainerStats("c"),), pod=PodStats())

    one = Meter(ask, KNOWN)
    assert one.fresh() is None
    sample = await one.sample()
    assert one.fresh() is sample
    assert one.fresh(files=True) is None, "another question"
    one.disks.clear()
    assert one.fresh() is None, "its disk is not known"
    await one.sample()
    assert one.fresh() is not None
    monkeypatch.setattr(meter, "FRESH_S", 0.0)
    assert one.fresh() is None


async def test_a_decision_waits_for_numbers_of_now_where_a_list_takes_the_last_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(meter, "PATIENCE_S", 0.01)
    late = asyncio.Event()
    late.set()

    async def ask(op: Stats, timeout_s: float) -> Reply:
        await late.wait()
        return Reply(pod=PodStats())

    one = Meter(ask, KNOWN)
    last = await one.sample()
    late.clear()
    assert await one.sample() is last
    now = one.current()
    assert await one.sample() is last and not now.done()
    late.set()
    assert await now is not last


async def test_a_slow_walk_of_the_disk_delays_only_the_first_one() -> None:
    async def ask(op: Stats, timeout_s: float) -> Reply:
        if op.disk:
            await asyncio.sleep(1000)
        return Reply(stats=(ContainerStats("c"),), pod=PodStats())

    one = Meter(ask, KNOWN)
    loop = asyncio.get_running_loop()
    begun = loop.time()
    await one.sample()
    first = loop.time() - begun
    for _ in range(5):
        await one.sample()
    assert loop.time() - begun - first < first
    assert first >= meter.PATIENCE_S - 0.01
    await one.close()


async def test_a_closed_meter_leaves_no_task_behind() -> None:
    async def ask(op: Stats, timeout_s: float) -> Reply:
        await asyncio.sleep(1000)
        return Reply()

    one = Meter(ask, KNOWN)
    with pytest.raises(TimedOut, match="statistics"):
        await one.sample()
    await one.close()
    assert asyncio.all_tasks() == {asyncio.current_task()}


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


@pytest.mark.parametrize(("guest_s", "period_s"), [(0.0, 1.1), (0.025, 1.1), (0.2, 10), (0.29, 1.5), (0.1, 15.0)])
def test_while_somebody_asks_regularly_the_guest_is_sampled_before_and_no_longer(
    guest_s: float, period_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop, asked = InstantLoop(), []
    monkeypatch.setattr(time, "monotonic", loop.time)
    monkeypatch.setattr(time, "time_ns", lambda: round(loop.now_s * S))

    async def ask(op: Stats, timeout_s: float) -> Reply:
        asked.append(op)
        await asyncio.sleep(guest_s)
        return Reply(stats=(ContainerStats("c"),), pod=PodStats())

    async def rounds() -> list[float]:
        pod, waited_s = OnePod(ask, {"c"}), []
        for _round in range(8):
            begun_s = time.monotonic()
            await samples_of([pod])
            ((_, sample),) = await samples_of([pod])  # as a list of pods after one of containers
            assert 0 <= time.monotonic() - sample.unix_ns / S + 1e-6 < 1
            waited_s.append(time.monotonic() - begun_s)
            await asyncio.sleep(period_s - waited_s[-1])
        await asyncio.sleep(10 * period_s)
        await pod.meter.close()
        return waited_s

    try:
        waited_s = loop.run_until_complete(rounds())
    finally:
        loop.close()
    assert waited_s[2:] == pytest.approx([0] * 6, abs=1e-6)
    assert sum(not op.disk for op in asked) <= 8, "once for each query, and once for one that did not come"


async def test_a_closed_meter_samples_no_more() -> None:
    async def ask(op: Stats, timeout_s: float) -> Reply:
        return Reply(stats=(ContainerStats("c"),), pod=PodStats())

    one, now_s = Meter(ask, KNOWN), time.monotonic()
    one.query()
    one._queried_s[False] = now_s - 10
    one.query()
    one.answered()
    (timer,) = one._timers.values()
    assert meter.LEAD_S[0] <= 10 - (timer.when() - asyncio.get_running_loop().time()) <= meter.LEAD_S[1] + 1
    await one.close()
    assert timer.cancelled()
    one.answered()
    assert list(one._timers.values()) == [timer], "nobody answers any more"


async def test_the_first_answer_after_a_start_has_the_disk_too() -> None:
    asked: list[Stats] = []

    async def ask(op: Stats, timeout_s: float) -> Reply:
        asked.append(op)
        return Reply(stats=(ContainerStats("c"),), pod=PodStats())

    one = Meter(ask, KNOWN)
    await one.sample()
    await one.sample()
    one.begin()
    await one.sample()
    assert asked == [Stats(disk=True), Stats(), Stats(disk=True)]


async def test_a_count_of_the_disk_that_takes_long_makes_no_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meter, "WALK_S", 0.02)

    async def ask(op: Stats, timeout_s: float) -> Reply:
        await asyncio.sleep(0.1 if op.disk else 0)
        return Reply(stats=(ContainerStats("c", disk_bytes=5),), pod=PodStats(at_ns=1 if op.disk else 2))

    one = Meter(ask, KNOWN)
    sample = await one.sample()
    assert sample.pod.at_ns == 2 and one.disks["c"].used_bytes == 5
    assert one.last() is sample


@pytest.mark.parametrize("sizes", [[], [1], [10, 10, 10], [100], [100, 1, 100], [1] * 50])
def test_lists_are_cut_into_pieces_of_a_size(sizes: list[int]) -> None:
    items = [pb.Container(id="x" * size) for size in sizes]
    pieces = list(chunks(items, 40))
    assert [item for piece in pieces for item in piece] == items
    assert all(piece for piece in pieces)
    assert all(sum(item.ByteSize() for item in piece) <= 40 or len(piece) == 1 for piece in pieces)


async def test_a_sample_of_the_last_moment_serves_while_the_vm_runs_and_has_all_containers() -> None:
    asked: list[Stats] = []

    async def ask(op: Stats, timeout_s: float) -> Reply:
        asked.append(op)
        return Reply(stats=(ContainerStats("c"),), pod=PodStats())

    pod = OnePod(ask, KNOWN)
    sample = await sample_of(pod)
    before = len(asked)
    assert await sample_of(pod) is sample and len(asked) == before
    pod.containers["c1"] = pod
    assert await sample_of(pod) is not sample and len(asked) > before
    del pod.containers["c1"]
    pod.is_ready = False
    assert await sample_of(pod) is None, "its VM has ended"
    await pod.meter.close()
