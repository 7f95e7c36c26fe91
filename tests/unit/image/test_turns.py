# SPDX-License-Identifier: Apache-2.0
"""Which pulls make room: as many as wait, and those whose registry sends little."""

import asyncio
from pathlib import Path

import pytest

from cri.image import progress
from cri.image.skopeo import RegistryUnavailable
from cri.image.turns import Turn, Turns


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


async def test_a_download_that_was_quick_is_given_as_long_again(tmp_path: Path) -> None:
    with (tmp_path / "blob").open("wb") as file:
        file.truncate(progress.SLOW_BYTES)
    expected = progress.Download("x/y:1", str(tmp_path), 0, interval_s=0.01, slow_s=0.1, yields=lambda: True)
    with pytest.raises(RegistryUnavailable, match=r"x/y:1 has sent 0 bytes"):
        await progress.watched(asyncio.sleep(3600), expected)


async def test_a_slow_download_ends_while_others_wait(tmp_path: Path) -> None:
    asked: list[bool] = []

    def yields() -> bool:
        asked.append(len(asked) == 1)
        return asked[-1]

    expected = progress.Download("x/y:1", str(tmp_path), 0, interval_s=0.01, slow_s=0.1, yields=yields)
    with pytest.raises(RegistryUnavailable, match=r"x/y:1 has sent 0 bytes .*images.pulls"):
        await progress.watched(asyncio.sleep(3600), expected)
    assert asked == [False, True]
