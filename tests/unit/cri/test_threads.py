# SPDX-License-Identifier: Apache-2.0
"""Work in a thread whose waiter is cancelled."""

import asyncio
import threading

import pytest

from cri.threads import run_apart, run_uncancellable, started
from stage1.errors import Exhausted
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
async def test_a_cancelled_waiter_leaves_only_when_the_work_is_done(fails: bool) -> None:
    begun, go_on, done = threading.Event(), threading.Event(), []

    def work() -> None:
        begun.set()
        go_on.wait(5 * PATIENCE)
        done.append(True)
        if fails:
            raise ValueError

    task = asyncio.ensure_future(run_uncancellable(work))
    await asyncio.to_thread(begun.wait, 5)
    task.cancel()
    await asyncio.sleep(0.05)
    assert not task.done()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert done == [True]


async def test_a_pool_that_was_started_needs_no_other_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with started(2, "two") as pool:
        monkeypatch.setattr(threading.Thread, "start", refuse)
        assert list(pool.map(abs, (-1, -2, -3))) == [1, 2, 3]
        with pytest.raises(Exhausted, match="a thread"):
            started(2, "none")
