# SPDX-License-Identifier: Apache-2.0
"""Time limits of whole operations, however many questions to the guest they take. Used by everything in this package
that a call waits for; docs/dev/cri.md has the numbers.

A guest that is frozen, silent or thrashing gets `Tools.react_s` to end what it is told to end, beyond any grace; then
its VM is ended. Nothing else ends a VM: other operations end with TimedOut.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, TypeVar

from stage1.errors import PodError, TimedOut

if TYPE_CHECKING:
    from cri.pods.pod import LivePod

T = TypeVar("T")

UNDO_S = 0.8
"""What a guest that let an operation time out gets for each of its undoing, of which two fit into the promised 2 s."""


@asynccontextmanager
async def limit(pod: "LivePod", what: str, *, limit_s: float = 0) -> AsyncIterator[None]:
    """The block is cancelled after `limit_s`, or as long as any call to the pod's guest may take; raises TimedOut."""
    limit_s = limit_s or pod.tools.call_timeout_s
    try:
        async with asyncio.timeout(limit_s):
            yield
    except TimeoutError:
        raise _late(pod, what, limit_s=limit_s) from None


async def answer(pod: "LivePod", task: asyncio.Task[T], *, what: str) -> T:
    """What the task gives. When that takes longer than a call may, raises TimedOut, and the task goes on."""
    limit_s = pod.tools.call_timeout_s
    await asyncio.wait({task}, timeout=limit_s)
    if not task.done():
        raise _late(pod, what, limit_s=limit_s)
    return task.result()


async def unless_set(event: asyncio.Event, work: Awaitable[T], *, otherwise: PodError) -> T:
    """What `work` gives; it is cancelled, and `otherwise` raised, when the event is set before."""
    task, ended = asyncio.ensure_future(work), asyncio.ensure_future(event.wait())
    try:
        await asyncio.wait({task, ended}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise otherwise
        return task.result()
    finally:
        ended.cancel()
        task.cancel()


async def is_done_within(limit_s: float, work: Awaitable[object]) -> bool:
    """Wait for `work` at most so long, then cancel it; whether it ended by itself. Its PodError counts as an end."""
    try:
        async with asyncio.timeout(limit_s):
            await work
    except TimeoutError:
        return False
    except PodError:
        pass
    return True


def _late(pod: "LivePod", what: str, *, limit_s: float) -> TimedOut:
    return TimedOut(f"{what}: the guest of {pod.title} did not answer within {limit_s:g} s")
