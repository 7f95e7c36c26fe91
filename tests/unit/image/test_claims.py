# SPDX-License-Identifier: Apache-2.0
"""Who brings a layer that several pulls want: one of them, and another one when that one fails."""

import asyncio
from collections.abc import Awaitable, Callable, Collection
from typing import Any

import pytest

from cri.image.convert import bring_all


class Store:
    """Stands for an ImageStore; it only has to be the same one."""


class Shelf:
    """What has been brought, and by whom."""

    def __init__(self) -> None:
        self.store: Any = Store()
        self.there: set[str] = set()
        self.brought: list[tuple[str, list[str]]] = []

    def missing(self, *blobs: str) -> Callable[[], Collection[str]]:
        """Those of `blobs` that are not there yet."""
        return lambda: [blob for blob in blobs if blob not in self.there]

    def pull(
        self, who: str, *blobs: str, fails: bool = False, pause_s: float = 0.01, origin: str = ""
    ) -> Awaitable[None]:
        """A pull of `blobs`."""

        async def bring(mine: Collection[str]) -> None:
            self.brought.append((who, sorted(mine)))
            await asyncio.sleep(pause_s)
            if fails:
                raise OSError(who)
            self.there.update(mine)

        return bring_all(self.store, self.missing(*blobs), origin=origin, bring=bring)


async def test_concurrent_pulls_fetch_each_layer_once() -> None:
    shelf = Shelf()
    await asyncio.gather(shelf.pull("a", "1", "2"), shelf.pull("b", "2", "3"), shelf.pull("c", "1", "3"))
    assert shelf.brought == [("a", ["1", "2"]), ("b", ["3"])]
    await shelf.pull("d", "1", "2", "3")
    assert len(shelf.brought) == 2


async def test_what_one_fails_to_bring_another_does() -> None:
    shelf = Shelf()
    bad = asyncio.ensure_future(shelf.pull("bad", "1", "2", fails=True))
    await asyncio.sleep(0)
    good = asyncio.ensure_future(shelf.pull("good", "2", "3"))
    with pytest.raises(OSError, match="bad"):
        await bad
    await good
    assert shelf.brought == [("bad", ["1", "2"]), ("good", ["3"]), ("good", ["2"])]


async def test_two_stores_have_nothing_to_do_with_each_other() -> None:
    one, two = Shelf(), Shelf()
    await asyncio.gather(one.pull("a", "1"), two.pull("b", "1"))
    assert one.brought + two.brought == [("a", ["1"]), ("b", ["1"])]


async def test_a_pull_waits_for_no_other_registry() -> None:
    shelf = Shelf()
    slow = asyncio.ensure_future(shelf.pull("slow", "1", origin="slow.example", pause_s=3600))
    await asyncio.sleep(0)
    await shelf.pull("b", "1", "2", origin="good.example")
    assert shelf.brought == [("slow", ["1"]), ("b", ["1", "2"])] and not slow.done()
    slow.cancel()
