# SPDX-License-Identifier: Apache-2.0
"""The budget of the event loop: all links of a node share a limited time in each iteration, so calls are answered
however much the guests send (docs/design/link.md). Used by `cri.agent`; made once per node.

It knows nothing of links, and it can't interrupt: a user stops by itself after `SLICE_S`.
"""

import asyncio
from collections import deque

SLICE_S = 0.002
"""The time for all links together, in one iteration of the event loop."""


class LoopBudget:
    """Call `begin`, work for at most SLICE_S, then `spend` what it took. When nothing is left, `begin` waits in a
    queue.

    For metrics, since it was made: `busy_s`, seconds in which the loop worked for links; `turns`, how often one waited
    for its turn; `held` and `held_s`, how often and how long one was not read since its guest was over its own budget.
    """

    def __init__(self) -> None:
        self.busy_s, self.turns, self.held, self.held_s = 0.0, 0, 0, 0.0
        self._spent_s = 0.0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._is_next_due = False

    async def begin(self) -> None:
        """Wait for a share; returns at once while this iteration has time left and no other link waits."""
        if self._spent_s < SLICE_S and not self._waiting:
            return
        share: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.turns += 1
        self._waiting.append(share)
        self._expect_next()
        try:
            await share
        except asyncio.CancelledError:
            if share.done() and not share.cancelled():
                self._wake()  # the share was given to a task that was cancelled
            raise

    def spend(self, seconds: float) -> None:
        """Account for seconds in which the loop was busy."""
        self._spent_s += seconds
        self.busy_s += seconds
        if self._spent_s >= SLICE_S:
            self._expect_next()
        else:
            self._wake()

    async def hold(self, seconds: float) -> None:
        """Let a link wait that is over its own budget."""
        if seconds:
            self.held, self.held_s = self.held + 1, self.held_s + seconds
            await asyncio.sleep(seconds)

    def _expect_next(self) -> None:
        if not self._is_next_due:
            self._is_next_due = True
            asyncio.get_running_loop().call_soon(self._next)

    def _next(self) -> None:
        """Another iteration of the loop has begun."""
        self._is_next_due, self._spent_s = False, 0.0
        self._wake()
        if self._waiting:
            self._expect_next()

    def _wake(self) -> None:
        while self._waiting:
            share = self._waiting.popleft()
            if not share.done():
                share.set_result(None)
                return
