# SPDX-License-Identifier: Apache-2.0
"""Layers that are being fetched, so that concurrent pulls that share one fetch it once. Used by the pull only.

Only within one process: `clearpod run` and the daemon may fetch a layer twice, and one of the two is kept.
"""

import asyncio
import weakref
from collections.abc import Awaitable, Callable, Collection

from cri.store.images import ImageStore

_Busy = dict[str, "asyncio.Future[None]"]
_busy: "weakref.WeakKeyDictionary[ImageStore, _Busy]" = weakref.WeakKeyDictionary()


async def bring_all(
    store: ImageStore, missing: Callable[[], Collection[str]], *, bring: Callable[[Collection[str]], Awaitable[None]]
) -> None:
    """Call `bring` with the `missing` blobs that no other pull is bringing, and wait for the others, until none is
    missing.

    One that another pull gave up is then ours to bring. Raises what `bring` raises.
    """
    busy = _busy.setdefault(store, {})
    while blobs := missing():
        others = {busy[blob] for blob in blobs if blob in busy}
        if mine := {blob for blob in blobs if blob not in busy}:
            await _claimed(busy, mine, bring=bring)
        if others:
            await asyncio.wait(others)


async def _claimed(busy: _Busy, mine: Collection[str], *, bring: Callable[[Collection[str]], Awaitable[None]]) -> None:
    done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    busy.update(dict.fromkeys(mine, done))
    try:
        await bring(mine)
    finally:
        for blob in mine:
            del busy[blob]
        done.set_result(None)
