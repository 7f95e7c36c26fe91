# SPDX-License-Identifier: Apache-2.0
"""Names: one owner at a time, freed by failure, and the answer that nobody got is given to who asks again."""

import asyncio

import pytest

from cri.pods.names import Names
from stage1.errors import AlreadyExists, VmFailed

NAME = ("default", "web", "uid", 0)


def _names(abandoned: set[object]) -> Names:
    return Names("sandbox", abandoned.__contains__)


async def _id() -> str:
    return "id-1"


async def test_a_taken_name_is_refused_and_the_owner_named() -> None:
    names = _names(set())
    assert await names.make(NAME, b"r", _id) == "id-1"
    with pytest.raises(AlreadyExists, match="default/web/uid/0 exists as id-1; remove it or use another attempt"):
        await names.make(NAME, b"r", _id)


async def test_a_name_in_progress_is_refused_until_it_is_done() -> None:
    names, go = _names(set()), asyncio.Event()

    async def slow() -> str:
        await go.wait()
        return "id-1"

    first = asyncio.create_task(names.make(NAME, b"r", slow))
    await asyncio.sleep(0)
    with pytest.raises(AlreadyExists, match="is reserved by a call in progress"):
        await names.make(NAME, b"r", _id)
    go.set()
    assert await first == "id-1"


async def test_failure_frees_the_name() -> None:
    names = _names(set())

    async def fails() -> str:
        raise VmFailed("no")

    with pytest.raises(VmFailed):
        await names.make(NAME, b"r", fails)
    assert await names.make(NAME, b"r", _id) == "id-1"


async def test_release_frees_the_name() -> None:
    names = _names(set())
    await names.make(NAME, b"r", _id)
    names.release(NAME)
    names.release(NAME)
    assert await names.make(NAME, b"r", _id) == "id-1"


@pytest.mark.parametrize("still_running", [True, False])
async def test_an_abandoned_call_gives_its_answer_once_to_the_same_request(still_running: bool) -> None:
    abandoned: set[object] = set()
    names, go = _names(abandoned), asyncio.Event()

    async def slow() -> str:
        await go.wait()
        return "id-1"

    first = asyncio.create_task(names.make(NAME, b"r", slow))
    abandoned.add(first)
    await asyncio.sleep(0)
    if not still_running:
        go.set()
        await first
    with pytest.raises(AlreadyExists):
        await names.make(NAME, b"another request", _id)
    again = asyncio.create_task(names.make(NAME, b"r", _id))
    await asyncio.sleep(0)
    go.set()
    assert await again == "id-1"
    with pytest.raises(AlreadyExists, match="exists as id-1"):
        await names.make(NAME, b"r", _id)


async def test_who_waits_for_an_abandoned_call_hears_of_its_failure() -> None:
    abandoned: set[object] = set()
    names, go = _names(abandoned), asyncio.Event()

    async def fails() -> str:
        await go.wait()
        raise VmFailed("the console's last line")

    first = asyncio.create_task(names.make(NAME, b"r", fails))
    abandoned.add(first)
    await asyncio.sleep(0)
    again = asyncio.create_task(names.make(NAME, b"r", _id))
    await asyncio.sleep(0)
    go.set()
    with pytest.raises(VmFailed, match="last line"):
        await again
    with pytest.raises(VmFailed):
        await first
    assert await names.make(NAME, b"r", _id) == "id-1"


async def test_a_name_taken_over_at_recovery_is_refused() -> None:
    names = _names(set())
    names.take(NAME, "id-0")
    with pytest.raises(AlreadyExists, match="exists as id-0"):
        await names.make(NAME, b"", _id)
