# SPDX-License-Identifier: Apache-2.0
"""Rates from samples, questions to a guest that is slow or lies, and lists in pieces."""

import asyncio
import time
from collections.abc import Awaitable, Callable

import pytest

from cri.pb import runtime_pb2 as pb
from cri.statistics import meter
from cri.statistics.meter import Meter
from cri.statistics.sample import MissedTime, Rates
from cri.statistics.samples import sample_of
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


async def test_a_guest_is_asked_before_a_regular_caller_comes_unless_its_numbers_will_be_new(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[Stats] = []

    async def ask(op: Stats, timeout_s: float) -> Reply:
        asked.append(op)
        return Reply(stats=(ContainerStats("c"),), pod=PodStats())

    one, now_s = Meter(ask, KNOWN), time.monotonic()
    one._times[False].add(now_s - 10)
    one._times[False].answered(now_s - 10)
    assert one.query() is None
    one._took_s = 0.25
    one.answered()
    (timer,) = one._prefetches
    in_s = timer.when() - asyncio.get_running_loop().time() + one._took_s
    assert 10 - meter.LEAD_S[1] - 0.1 < in_s <= 10 - meter.LEAD_S[0]
    one._renew(False)
    await one.sample()
    assert asked == [Stats(disk=True)]
    monkeypatch.setattr(meter, "FRESH_S", 1000.0)
    one._renew(False)
    assert one._open[Stats(disk=True)].task.done() and Stats() not in one._open, "there is a sample of now"
    monkeypatch.setattr(meter, "FRESH_S", one._lead_s)
    one._renew(False)
    assert not one._open[Stats()].task.done(), "it would be old by then"
    await one.close()
    assert timer.cancelled()
    one._times[False].add(now_s + 20)
    one.answered()
    assert one._prefetches == [timer], "nobody answers any more"


async def test_a_container_that_has_started_is_sampled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meter, "BEGIN_S", 0.01)
    asked: list[Stats] = []

    async def ask(op: Stats, timeout_s: float) -> Reply:
        asked.append(op)
        return Reply(stats=(ContainerStats("c"),), pod=PodStats())

    one = Meter(ask, KNOWN)
    for runs in (False, True, True):
        one.begin(lambda runs=runs: runs)  # type: ignore[misc]
        assert not any(op.disk for op in asked[1:])
        await asyncio.sleep(0.05)
    assert asked == [Stats(disk=True), Stats()], "what is on the disk was just counted"
    assert one.fresh() is not None
    await one.sample()
    assert asked.pop() == Stats(disk=True), "it may have written since it began"
    one.begin(lambda: True)
    await one.close()
    await asyncio.sleep(0.05)
    assert len(asked) == 2, "nobody answers any more"


@pytest.mark.parametrize(("busy", "asked_of"), [((True, True, False), 3), ((True,) * 20, meter.BEGIN_TRIES - 1)])
async def test_a_guest_that_is_busy_with_an_exec_is_asked_later_but_asked(
    monkeypatch: pytest.MonkeyPatch, busy: tuple[bool, ...], asked_of: int
) -> None:
    monkeypatch.setattr(meter, "BEGIN_S", 0.01)
    asked, looks = asyncio.Event(), iter(busy)

    async def ask(op: Stats, timeout_s: float) -> Reply:
        asked.set()
        return Reply(stats=(ContainerStats("c"),), pod=PodStats())

    seen: list[bool] = []

    def is_busy() -> bool:
        seen.append(next(looks))
        return seen[-1]

    one = Meter(ask, KNOWN)
    one.begin(lambda: True, is_busy=is_busy)
    async with asyncio.timeout(30):
        await asked.wait()
    assert len(seen) == asked_of
    await one.close()


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
