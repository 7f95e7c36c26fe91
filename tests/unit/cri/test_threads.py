# SPDX-License-Identifier: Apache-2.0
"""Work in a thread whose waiter is cancelled."""

import asyncio
import gc
import threading

import pytest

from cri.threads import Bulk, await_end, obtained, run_apart, run_uncancellable, started, unless_set
from stage1.errors import Exhausted, VmFailed
from tests.fakes.patience import PATIENCE


async def test_the_result_and_the_error_come_back() -> None:
    assert await run_uncancellable(divmod, 7, 2) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        await run_uncancellable(divmod, 7, 0)


async def test_work_that_runs_apart_takes_no_thread_of_others() -> None:
    assert await run_apart(divmod, 7, 2) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        await run_apart(divmod, 7, 0)
    go_on = threading.Event()
    waiting = [asyncio.ensure_future(run_apart(go_on.wait, 10 * PATIENCE)) for _ in range(40)]
    async with asyncio.timeout(10 * PATIENCE):
        assert await asyncio.to_thread(divmod, 7, 2) == (3, 1)
    go_on.set()
    assert all(await asyncio.gather(*waiting))


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("times", [1, 3])
async def test_a_cancelled_waiter_leaves_only_when_the_work_is_done_and_no_error_is_lost(
    fails: bool, times: int
) -> None:
    """More than once, as by `gather`: the first of several tasks that is cancelled ends it, and all others with it."""
    lost: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: lost.append(context))
    begun, go_on, done = threading.Event(), threading.Event(), []

    def work() -> None:
        begun.set()
        go_on.wait(5 * PATIENCE)
        done.append(True)
        if fails:
            raise ValueError

    task = asyncio.ensure_future(run_uncancellable(work))
    await asyncio.to_thread(begun.wait, 5 * PATIENCE)
    for _ in range(times):
        task.cancel()
        await asyncio.sleep(0.02)
    assert not task.done()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert done == [True]
    del task
    await asyncio.sleep(0.02)
    gc.collect()
    assert lost == []


async def test_the_waiter_of_an_end_gets_it_without_its_error() -> None:
    async def fail() -> None:
        await asyncio.sleep(0)
        raise VmFailed("no")

    await await_end(asyncio.ensure_future(fail()))
    gone = asyncio.ensure_future(asyncio.sleep(60))
    gone.cancel()
    await await_end(gone)


async def test_work_that_is_given_up_for_an_event_has_ended_then() -> None:
    begun, go_on, over, done = threading.Event(), threading.Event(), asyncio.Event(), []

    def work() -> None:
        begun.set()
        go_on.wait(5 * PATIENCE)
        done.append(True)

    task = asyncio.ensure_future(unless_set(over, run_uncancellable(work), otherwise=VmFailed("over")))
    await asyncio.to_thread(begun.wait, 5 * PATIENCE)
    over.set()
    await asyncio.sleep(0.05)
    assert not task.done()
    go_on.set()
    with pytest.raises(VmFailed):
        await task
    assert done == [True]
    assert await unless_set(asyncio.Event(), run_uncancellable(divmod, 7, 2), otherwise=VmFailed("over")) == (3, 1)


async def test_a_pool_that_was_started_needs_no_other_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with started(2, "two") as pool:
        monkeypatch.setattr(threading.Thread, "start", refuse)
        assert list(pool.map(abs, (-1, -2, -3))) == [1, 2, 3]
        with pytest.raises(Exhausted, match="a thread"):
            started(2, "none")


class Jobs:
    """Work that goes on until it is let go; `begun` are the names of what has begun, in order."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self._go = threading.Event()

    def __call__(self, name: str) -> str:
        self.begun.append(name)
        assert self._go.wait(30 * PATIENCE)
        return name

    def end(self) -> None:
        self._go.set()

    async def number(self, count: int) -> None:
        """Wait until so many have begun."""
        async with asyncio.timeout(30 * PATIENCE):
            while len(self.begun) < count:
                await asyncio.sleep(0.005)


async def test_bulk_work_is_bounded_and_done_first_in_first_out() -> None:
    bulk, jobs = Bulk(2, long_s=600), Jobs()
    tasks = [asyncio.ensure_future(bulk.run(jobs, name)) for name in "abcd"]
    await jobs.number(2)
    await asyncio.sleep(0.05)
    assert sorted(jobs.begun) == ["a", "b"]
    tasks[2].cancel()
    jobs.end()
    assert await asyncio.gather(*tasks[:2], tasks[3]) == ["a", "b", "d"]
    assert tasks[2].cancelled() and "c" not in jobs.begun


async def test_long_bulk_work_delays_no_other_up_to_a_limit() -> None:
    bulk, jobs = Bulk(1, long_s=0.01, most=3), Jobs()
    tasks = [asyncio.ensure_future(bulk.run(jobs, name)) for name in "abcd"]
    await jobs.number(3)
    await asyncio.sleep(0.1)
    assert sorted(jobs.begun) == ["a", "b", "c"]  # each in a thread of its own, which begins when it can
    jobs.end()
    assert await asyncio.gather(*tasks) == ["a", "b", "c", "d"]
    assert (bulk._begun, bulk._long) == (0, 0)


async def test_bulk_work_that_fails_or_whose_caller_goes_makes_space_when_it_has_ended() -> None:
    bulk, jobs = Bulk(1, long_s=600), Jobs()

    def fail() -> None:
        raise VmFailed("no")

    with pytest.raises(VmFailed):
        await bulk.run(fail)
    gone = asyncio.ensure_future(bulk.run(jobs, "gone"))
    await jobs.number(1)
    gone.cancel()
    after = asyncio.ensure_future(bulk.run(jobs, "after"))
    await asyncio.sleep(0.05)
    assert jobs.begun == ["gone"]
    jobs.end()
    assert await after == "after"


async def test_what_a_thread_has_opened_for_a_cancelled_waiter_is_given_back() -> None:
    begun, go_on = threading.Event(), threading.Event()
    given: asyncio.Queue[str] = asyncio.Queue()

    def work() -> str:
        begun.set()
        go_on.wait(5 * PATIENCE)
        return "a descriptor"

    task = asyncio.ensure_future(obtained(work, given.put_nowait))
    await asyncio.to_thread(begun.wait, 5 * PATIENCE)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    go_on.set()
    async with asyncio.timeout(5 * PATIENCE):
        assert await given.get() == "a descriptor"


async def test_a_failure_without_a_waiter_is_not_reported_as_lost() -> None:
    lost: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: lost.append(context))
    go_on = threading.Event()

    def work() -> str:
        go_on.wait(5 * PATIENCE)
        raise VmFailed("too late")

    task = asyncio.ensure_future(obtained(work, lost.append))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    go_on.set()
    await asyncio.to_thread(divmod, 7, 2)
    gc.collect()
    await asyncio.sleep(0)
    assert lost == []


async def test_what_was_obtained_is_the_waiters() -> None:
    assert await obtained(divmod, pytest.fail, 7, 2) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        await obtained(divmod, pytest.fail, 7, 0)
