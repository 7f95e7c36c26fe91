# SPDX-License-Identifier: Apache-2.0
"""Wakes a prewarmed guest just before it gets its configuration: the first answer of an idle one is slow, since its VMM
sleeps and none of its memory is in the processor's caches. Used by `boot.claim`, from a worker thread.
"""

import asyncio
from collections.abc import Awaitable, Callable

from stage1.errors import PodError
from stage1.guest import messages


def wakeup_of(call: Callable[[messages.Op], Awaitable[messages.Reply]]) -> Callable[[], None]:
    """A function for any thread that sends the guest a trivial request. It neither waits nor fails: the next real
    request reports an error.
    """
    loop, tasks = asyncio.get_running_loop(), set[asyncio.Task[None]]()

    async def ask() -> None:
        try:
            await call(messages.List())
        except PodError:
            pass

    def begin() -> None:
        task = loop.create_task(ask(), name="wake a guest")
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    def wake() -> None:
        loop.call_soon_threadsafe(begin)

    return wake
