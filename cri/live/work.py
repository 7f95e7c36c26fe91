# SPDX-License-Identifier: Apache-2.0
"""The operations in progress on one pod: those that use its files, and background work that outlives its RPC.

Owned by the pod, whose directory is removed only when none is left. Knows no operation.
"""

import asyncio
import logging
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from cri.tasks import Tasks
from stage1.errors import PodError

T = TypeVar("T")

log = logging.getLogger("clearpod.pod")


class Work:
    """`using_files` for operations, `run_in_background` for what outlives its call."""

    def __init__(self) -> None:
        self._users = 0
        self._unused = asyncio.Event()
        self._unused.set()
        # The caller gets a PodError; a defect of ours is logged in any case.
        self._background = Tasks(log, "pod.work", expected=PodError)

    @property
    def is_used(self) -> bool:
        """Whether an operation uses the pod's files."""
        return self._users > 0

    @contextmanager
    def using_files(self) -> Iterator[None]:
        """The pod's files are not removed while the block runs."""
        self._users += 1
        self._unused.clear()
        try:
            yield
        finally:
            self._users -= 1
            if not self._users:
                self._unused.set()

    def run_in_background(self, work: Coroutine[Any, Any, T], what: str) -> asyncio.Task[T]:
        """Run it in a task that continues when its caller is cancelled, until `close`."""
        return self._background.own(work, what)

    async def idle(self) -> None:
        """Return when no operation uses the pod's files."""
        await self._unused.wait()

    async def close(self) -> None:
        """Cancel the background work, and wait until it has ended."""
        await self._background.close()
