# SPDX-License-Identifier: Apache-2.0
"""Repeats a request that is refused for a while, with pauses between tries. For what pods ask their guests.

Pauses are an iterator that ends when nothing more is to be tried.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import TypeVar

from stage1.errors import WrongState

T = TypeVar("T")


async def retry_while_busy(ask: Callable[[], Awaitable[T]], pauses: Iterable[float]) -> T:
    """Return what `ask` gives, which is called again after each of `pauses` as long as it raises WrongState: a guest
    refuses a request while another one for the same container or mount is under way. Raises the last WrongState when
    there are no more pauses, and every other error at once.
    """
    left = iter(pauses)
    while True:
        try:
            return await ask()
        except WrongState:
            if (pause_s := next(left, None)) is None:
                raise
        await asyncio.sleep(pause_s)


def within(limit_s: float) -> Callable[[], bool]:
    """Return a function that returns whether less than `limit_s` seconds have passed."""
    until_s = time.monotonic() + limit_s
    return lambda: time.monotonic() <= until_s


def every(pause_s: float, is_awaited: Callable[[], bool]) -> Iterator[float]:
    """Yield the same pause while a caller waits for the result."""
    while is_awaited():
        yield pause_s


def backoff(first_s: float, last_s: float) -> Iterator[float]:
    """Yield pauses without end, each twice the one before, up to `last_s`."""
    while True:
        yield first_s
        first_s = min(2 * first_s, last_s)
