# SPDX-License-Identifier: Apache-2.0
"""Answers that are waited for by their numbers."""

import asyncio

import pytest

from cri.pending import Pending
from stage1.errors import VmFailed


async def test_only_who_waits_gets_an_answer_and_only_one() -> None:
    pending, future = Pending[str](), asyncio.get_running_loop().create_future()
    assert not pending.settle(7, "unasked")
    pending.add(7, future)
    assert pending and not pending.settle(8, "of another")
    assert pending.settle(7, "answer")
    assert not pending.settle(7, "again")
    assert await future == "answer"
    pending.remove(7)
    pending.remove(7)
    assert not pending and not pending.settle(7, "late")


async def test_a_cancelled_waiter_gets_no_answer() -> None:
    pending, future = Pending[str](), asyncio.get_running_loop().create_future()
    pending.add(1, future)
    future.cancel()
    assert not pending.settle(1, "answer")
    pending.fail(lambda: VmFailed("gone"))
    assert future.cancelled()


async def test_each_that_still_waits_gets_an_error_of_its_own() -> None:
    loop, pending = asyncio.get_running_loop(), Pending[str]()
    futures = [loop.create_future() for _ in range(3)]
    for number, future in enumerate(futures):
        pending.add(number, future)
    pending.settle(0, "answer")
    pending.fail(lambda: VmFailed("gone"))
    errors = [future.exception() for future in futures]
    assert errors[0] is None
    assert isinstance(errors[1], VmFailed) and isinstance(errors[2], VmFailed)
    assert errors[1] is not errors[2], "tracebacks would be mixed"
    with pytest.raises(VmFailed):
        await futures[1]
