# SPDX-License-Identifier: Apache-2.0
"""Work in a thread whose waiter is cancelled."""

import asyncio
import threading

import pytest

from cri.pods.threads import to_the_end


async def test_the_result_and_the_error_come_back() -> None:
    assert await to_the_end(divmod, 7, 2) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        await to_the_end(divmod, 7, 0)


@pytest.mark.parametrize("fails", [False, True])
async def test_a_cancelled_waiter_leaves_only_when_the_work_is_done(fails: bool) -> None:
    begun, go_on, done = threading.Event(), threading.Event(), []

    def work() -> None:
        begun.set()
        go_on.wait(5)
        done.append(True)
        if fails:
            raise ValueError

    task = asyncio.ensure_future(to_the_end(work))
    await asyncio.to_thread(begun.wait, 5)
    task.cancel()
    await asyncio.sleep(0.05)
    assert not task.done()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert done == [True]
