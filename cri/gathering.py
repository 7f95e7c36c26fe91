# SPDX-License-Identifier: Apache-2.0
"""When a link is read again after a piece of output. Used by `cri.agent`, one for each link.

A piece that arrives alone costs the daemon 0.4 ms, most of it for the thread that writes it to a log, and a large one
not much more. A guest that is slow, or whose agent wakes up at each write of a program, sends a few kilobytes at a
time: they are read every few milliseconds, together. One that sends as much as is read at once is not slowed down.
"""

import asyncio
import time

LEAST_BYTES, MOST_BYTES = 4096, 32 << 10
"""Pieces of less are answers, events, and what people read; pieces of more are large already."""
GATHER_S = 0.003
"""So short that a guest which is held up by nothing else does not use up its credit meanwhile."""
NEAR_S = 0.02
"""A piece that comes so long after the last one is not expected to be followed by others soon."""


class Gathering:
    """The pieces that came before."""

    def __init__(self) -> None:
        self._last_s = 0.0

    def pause_s(self, size: int, now_s: float) -> float:
        """Return for how many seconds the link should not be read, after `size` bytes were taken in now."""
        if size < LEAST_BYTES:
            return 0.0
        is_near = now_s - self._last_s < NEAR_S
        self._last_s = now_s
        return GATHER_S if is_near and size < MOST_BYTES else 0.0

    async def wait(self, size: int) -> None:
        """Wait so long."""
        if pause_s := self.pause_s(size, time.monotonic()):
            await asyncio.sleep(pause_s)
