# SPDX-License-Identifier: Apache-2.0
"""Time limits of whole operations, independent of the number of requests to the guest. Used by everything that is done
with pods and containers while a call waits for it; docs/dev/cri.md has the numbers.

A guest that is frozen, silent or thrashing gets `Tools.react_s` to carry out a stop, beyond any grace period; then its
VM is ended. Nothing else ends a VM: other operations end with TimedOut.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TypeVar

from cri.live.pod import LivePod
from stage1.errors import TimedOut

T = TypeVar("T")


@asynccontextmanager
async def limit(pod: LivePod, what: str, *, limit_s: float = 0) -> AsyncIterator[None]:
    """Cancel the block after `limit_s`, or as long as any call to the pod's guest may take. Raises TimedOut then."""
    limit_s = limit_s or pod.tools.call_timeout_s
    try:
        async with asyncio.timeout(limit_s):
            yield
    except TimeoutError:
        raise _late(pod, what, limit_s=limit_s) from None


async def answer(pod: LivePod, task: asyncio.Task[T], *, what: str) -> T:
    """Return the task's result. If that takes longer than a call may, raises TimedOut, and the task continues."""
    limit_s = pod.tools.call_timeout_s
    await asyncio.wait({task}, timeout=limit_s)
    if not task.done():
        raise _late(pod, what, limit_s=limit_s)
    return task.result()


def _late(pod: LivePod, what: str, *, limit_s: float) -> TimedOut:
    return TimedOut(f"{what}: the guest of {pod.title} did not answer within {limit_s:g} s")
