# SPDX-License-Identifier: Apache-2.0
"""Time limits of whole operations, independent of the number of requests to the guest. Used by everything that is done
with pods and containers while a call waits for it; docs/dev/cri.md has the numbers.

A guest that is frozen, silent or thrashing gets `Tools.react_s` to carry out a stop, beyond any grace period; then its
VM is ended. Nothing else ends a VM: other operations end with TimedOut.
"""

import asyncio
from types import TracebackType
from typing import TypeVar

from cri.live.pod import LivePod
from stage1.errors import TimedOut

T = TypeVar("T")


class Limit:
    """The block is cancelled after `limit_s`, or as long as any call to the pod's guest may take; raises TimedOut. No
    generator, which each call would have to make, enter and leave.
    """

    def __init__(self, pod: LivePod, what: str, *, limit_s: float = 0) -> None:
        self._pod, self._what, self._limit_s = pod, what, limit_s or pod.tools.call_timeout_s
        self._timeout = asyncio.timeout(self._limit_s)

    async def __aenter__(self) -> None:
        await self._timeout.__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self._timeout.__aexit__(kind, error, trace)
        except TimeoutError as late:
            error = late
        if isinstance(error, TimeoutError):
            raise _late(self._pod, self._what, limit_s=self._limit_s) from None


async def answer(pod: LivePod, task: asyncio.Task[T], *, what: str) -> T:
    """Return the task's result. If that takes longer than a call may, raises TimedOut, and the task continues."""
    limit_s = pod.tools.call_timeout_s
    await asyncio.wait({task}, timeout=limit_s)
    if not task.done():
        raise _late(pod, what, limit_s=limit_s)
    return task.result()


def _late(pod: LivePod, what: str, *, limit_s: float) -> TimedOut:
    return TimedOut(f"{what}: the guest of {pod.title} did not answer within {limit_s:g} s")
