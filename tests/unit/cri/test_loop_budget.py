# SPDX-License-Identifier: Apache-2.0
"""LoopBudget on the event loop: a busy link yields to others, and none starves."""

import asyncio
from collections import Counter

from cri.loop_budget import SLICE_S, LoopBudget
from tests.fakes.patience import PATIENCE


async def test_who_is_alone_and_does_little_never_waits() -> None:
    budget, is_over = LoopBudget(), []
    asyncio.get_running_loop().call_soon(is_over.append, True)
    for _ in range(10):
        await budget.begin()
        budget.spend(SLICE_S / 100)
    assert is_over == []


async def test_what_is_too_much_for_one_slice_of_the_loop_goes_on_in_the_next() -> None:
    budget, ticks = LoopBudget(), 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            ticks += 1
            await asyncio.sleep(0)

    ticking = asyncio.ensure_future(tick())
    await asyncio.sleep(0)
    for _ in range(50):
        await budget.begin()
        budget.spend(SLICE_S)
    ticking.cancel()
    assert ticks >= 49


async def test_many_who_always_have_work_take_turns_of_the_same_number() -> None:
    budget, done = LoopBudget(), Counter[int]()

    async def work(number: int, seconds: float) -> None:
        while True:
            await budget.begin()
            done[number] += 1
            budget.spend(seconds)

    tasks = [asyncio.ensure_future(work(number, SLICE_S * (1 + number % 2))) for number in range(8)]
    for _ in range(400):
        await asyncio.sleep(0)
    for task in tasks:
        task.cancel()
    assert sum(done.values()) <= 2 * 400
    assert max(done.values()) - min(done.values()) <= 2
    assert min(done.values()) > 10


async def test_the_slot_of_a_cancelled_waiter_goes_to_the_next() -> None:
    budget = LoopBudget()
    budget.spend(2 * SLICE_S)
    waiting = [asyncio.ensure_future(budget.begin()) for _ in range(3)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    async with asyncio.timeout(5 * PATIENCE):
        await asyncio.gather(*waiting[1:])
