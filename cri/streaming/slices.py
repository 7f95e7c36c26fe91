# SPDX-License-Identifier: Apache-2.0
"""What a client sent is parsed in short slices, in turn with the links of guests (`cri.loop_budget`): thousands of
frames fit into one read, and all else in the daemon waits while they are looked at. Used by `wire` and `spdy_session`.
"""

import time
from collections.abc import Iterator
from typing import TypeVar

from cri.loop_budget import SLICE_S, LoopBudget

T = TypeVar("T")


async def next_slice(events: Iterator[T], budget: LoopBudget) -> list[T]:
    """Return the next events, as many as are made within a slice, and one at least; empty at the end. Raises what
    making them does.
    """
    await budget.begin()
    begun_s, made = time.monotonic(), list[T]()
    try:
        for event in events:
            made.append(event)
            if time.monotonic() - begun_s >= SLICE_S:
                break
    finally:
        budget.spend(time.monotonic() - begun_s)
    return made
