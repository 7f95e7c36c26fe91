# SPDX-License-Identifier: Apache-2.0
"""Which pulls make room: as many as wait."""

import asyncio

from cri.image.pull import Turn, Turns


async def held(turns: Turns, taken: "list[Turn]", end: asyncio.Event) -> None:
    """Take a turn until `end`."""
    async with turns.one() as turn:
        taken.append(turn)
        await end.wait()


async def test_as_many_turns_end_as_others_wait_for() -> None:
    turns, taken, ends = Turns(3), list[Turn](), [asyncio.Event() for _ in range(5)]
    tasks = [asyncio.ensure_future(held(turns, taken, end)) for end in ends]
    await asyncio.sleep(0.01)
    assert len(taken) == 3
    assert [turn.yields() for turn in taken] == [True, True, False], "two wait"
    assert taken[0].yields(), "it said so before"
    ends[0].set()
    await asyncio.sleep(0.01)
    assert len(taken) == 4 and not taken[2].yields() and not taken[3].yields(), "the second still leaves"
    ends[1].set()
    await asyncio.sleep(0.01)
    assert len(taken) == 5 and not any(turn.yields() for turn in taken[2:]), "nobody waits"
    tasks.append(asyncio.ensure_future(held(turns, taken, ends[0])))
    await asyncio.sleep(0.01)
    assert [turn.yields() for turn in taken[2:5]] == [True, False, False]
    tasks[-1].cancel()
    for end in ends:
        end.set()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_who_gives_up_waiting_is_not_waited_for() -> None:
    turns, taken, end = Turns(1), list[Turn](), asyncio.Event()
    first, second = (asyncio.ensure_future(held(turns, taken, end)) for _ in range(2))
    await asyncio.sleep(0.01)
    second.cancel()
    await asyncio.sleep(0.01)
    assert not taken[0].yields()
    end.set()
    await first
