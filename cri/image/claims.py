# SPDX-License-Identifier: Apache-2.0
"""Layers that are being fetched, so that concurrent pulls from one registry that share one fetch it once. Used by the
pull only.

A pull waits for no other registry: one that sends a well-known layer slowly would delay everybody's images. And only
within one process: `clearpod run` and the daemon may fetch a layer twice. One of the two is kept.
"""

import asyncio
import weakref
from collections.abc import Awaitable, Callable, Collection

from cri.store.images import ImageStore

_Busy = dict[tuple[str, str], "asyncio.Future[None]"]
"""By registry and blob."""
_busy: "weakref.WeakKeyDictionary[ImageStore, _Busy]" = weakref.WeakKeyDictionary()


async def bring_all(
    store: ImageStore,
    missing: Callable[[], Collection[str]],
    *,
    origin: str,
    bring: Callable[[Collection[str]], Awaitable[None]],
) -> None:
    """Call `bring` with the `missing` blobs that no other pull from `origin` is bringing, and wait for the others,
    until none is missing.

    One that another pull gave up is then ours to bring. Raises what `bring` raises.
    """
    busy = _busy.setdefault(store, {})
    while blobs := missing():
        others = {busy[origin, blob] for blob in blobs if (origin, blob) in busy}
        if mine := {blob for blob in blobs if (origin, blob) not in busy}:
            await _claimed(busy, origin, mine=mine, bring=bring)
        if others:
            await asyncio.wait(others)


async def _claimed(
    busy: _Busy, origin: str, *, mine: Collection[str], bring: Callable[[Collection[str]], Awaitable[None]]
) -> None:
    done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    busy.update(dict.fromkeys(((origin, blob) for blob in mine), done))
    try:
        await bring(mine)
    finally:
        for blob in mine:
            del busy[origin, blob]
        done.set_result(None)
