# SPDX-License-Identifier: Apache-2.0
"""What is being done with one pod: operations that use its files, and work that goes on after its call was answered.

Owned by the pod, which removes its directory only when nothing of this is left. Knows no operation.
"""

import asyncio
import logging
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from cri.tasks import Tasks
from stage1.errors import PodError

T = TypeVar("T")

log = logging.getLogger("clearpod.pod")


class Work:
    """`here` for operations, `keep` for what outlives its call."""

    def __init__(self) -> None:
        self._users = 0
        self._unused = asyncio.Event()
        self._unused.set()
        # Who waits for such work gets its error; a fault of our own is written down in any case.
        self._kept = Tasks(log, "pod.work", expected=PodError)

    @contextmanager
    def here(self) -> Iterator[None]:
        """As long as the block lasts, the pod's files stay."""
        self._users += 1
        self._unused.clear()
        try:
            yield
        finally:
            self._users -= 1
            if not self._users:
                self._unused.set()

    def keep(self, work: Awaitable[T], what: str) -> asyncio.Task[T]:
        """Do it in a task that lives on when nobody waits for it, until `close`."""

        async def run() -> T:
            return await work

        return self._kept.own(run(), what)

    async def idle(self) -> None:
        """Return when no operation uses the pod's files."""
        await self._unused.wait()

    async def close(self) -> None:
        """Cancel what was kept, and wait until that has ended."""
        await self._kept.close()
