# SPDX-License-Identifier: Apache-2.0
"""Names: one owner at a time, freed by failure, and an answer that did not arrive is given to the repeated request."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from cri.pods.names import Names
from stage1.errors import AlreadyExists, VmFailed

NAME = ("default", "web", "uid", 0)


def _names(abandoned: set[object]) -> Names:
    return Names("sandbox", abandoned.__contains__)


async def _id() -> str:
    return "id-1"


async def _make(names: Names, request: bytes, work: Callable[[], Awaitable[str]] = _id) -> str:
    """As an RPC does."""
    if made := await names.repeated(NAME, request):
        return made
    with names.reserved(NAME, request) as reservation:
        reservation.keep(made := await work())
    return made


async def test_a_taken_name_is_refused_and_the_owner_named() -> None:
    names = _names(set())
    assert await _make(names, b"r") == "id-1"
    with pytest.raises(AlreadyExists, match=r"default/web/uid/0 .*id-1.*attempt"):
        await _make(names, b"r")


async def test_a_name_in_progress_is_refused_until_it_is_done() -> None:
    names, go = _names(set()), asyncio.Event()

    async def slow() -> str:
        await go.wait()
        return "id-1"

    first = asyncio.create_task(_make(names, b"r", slow))
    await asyncio.sleep(0)
    with pytest.raises(AlreadyExists, match="call in progress"):
        await _make(names, b"r")
    go.set()
    assert await first == "id-1"


async def test_failure_frees_the_name() -> None:
    names = _names(set())

    async def fails() -> str:
        raise VmFailed("no")

    with pytest.raises(VmFailed):
        await _make(names, b"r", fails)
    assert await _make(names, b"r") == "id-1"


async def test_release_frees_the_name() -> None:
    names = _names(set())
    await _make(names, b"r")
    names.release(NAME)
    names.release(NAME)
    assert await _make(names, b"r") == "id-1"


@pytest.mark.parametrize("still_running", [True, False])
async def test_an_abandoned_call_gives_its_answer_once_to_the_same_request(still_running: bool) -> None:
    abandoned: set[object] = set()
    names, go = _names(abandoned), asyncio.Event()

    async def slow() -> str:
        await go.wait()
        return "id-1"

    first = asyncio.create_task(_make(names, b"r", slow))
    abandoned.add(first)
    await asyncio.sleep(0)
    if not still_running:
        go.set()
        await first
    with pytest.raises(AlreadyExists):
        await _make(names, b"another request")
    second = asyncio.create_task(_make(names, b"r"))
    await asyncio.sleep(0)
    go.set()
    assert await second == "id-1"
    with pytest.raises(AlreadyExists, match="exists as id-1"):
        await _make(names, b"r")


async def test_the_waiter_of_an_abandoned_call_gets_its_failure() -> None:
    abandoned: set[object] = set()
    names, go = _names(abandoned), asyncio.Event()

    async def fails() -> str:
        await go.wait()
        raise VmFailed("the console's last line")

    first = asyncio.create_task(_make(names, b"r", fails))
    abandoned.add(first)
    await asyncio.sleep(0)
    second = asyncio.create_task(_make(names, b"r"))
    await asyncio.sleep(0)
    go.set()
    with pytest.raises(VmFailed, match="last line"):
        await second
    with pytest.raises(VmFailed):
        await first
    assert await _make(names, b"r") == "id-1"


async def test_a_name_taken_over_at_recovery_is_refused() -> None:
    names = _names(set())
    names.take(NAME, "id-0")
    with pytest.raises(AlreadyExists, match="exists as id-0"):
        await _make(names, b"")
