# SPDX-License-Identifier: Apache-2.0
"""Answers that are waited for, by their numbers: a guest's replies to requests, and the ends of its execs.

Used by `agent` and `live.pod`, which pass on what the guest sends. No I/O.
"""

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVar

from stage1.errors import PodError

T = TypeVar("T")


class Pending(Generic[T]):
    """Futures by number; false when there is none."""

    def __init__(self) -> None:
        self._futures: dict[int, asyncio.Future[T]] = {}

    def __bool__(self) -> bool:
        return bool(self._futures)

    def add(self, number: int, future: "asyncio.Future[T]") -> None:
        """Wait for the answer `number`, which `future` gets."""
        self._futures[number] = future

    def remove(self, number: int) -> None:
        """Stop waiting. Idempotent."""
        self._futures.pop(number, None)

    def settle(self, number: int, answer: T) -> bool:
        """Return whether the answer was waited for; the waiter has it then."""
        future = self._futures.get(number)
        if future is None or future.done():
            return False
        future.set_result(answer)
        return True

    def fail(self, error: Callable[[], PodError]) -> None:
        """Raise an error for all who still wait, a new one for each: there will be no answer."""
        for future in self._futures.values():
            if not future.done():
                future.set_exception(error())
