# SPDX-License-Identifier: Apache-2.0
"""Tasks that outlive the call that began them, and end with their owner.

A task that is never awaited must not fail silently, so each failure is logged.
"""

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class Tasks:
    """`event` is the name in `log` of a task that failed; errors of the types `expected` are for who awaits it."""

    def __init__(self, log: logging.Logger, event: str, *, expected: type[Exception] | tuple[()] = ()) -> None:
        self._log, self._event, self._expected = log, event, expected
        self._running: set[asyncio.Task[Any]] = set()

    def own(self, work: Coroutine[Any, Any, T], name: str = "") -> asyncio.Task[T]:
        """Run it until it is done, or until `close`."""
        task = asyncio.get_running_loop().create_task(work, name=name or None)
        self._running.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        if not task.cancelled() and (error := task.exception()) and not isinstance(error, self._expected):
            self._log.error(self._event, extra={"task": task.get_name()}, exc_info=error)

    async def settled(self) -> None:
        """Wait until all is done that was begun."""
        while self._running:
            await asyncio.wait(self._running)

    async def close(self) -> None:
        """Cancel what runs, and wait until it has ended. Idempotent."""
        tasks = list(self._running)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
