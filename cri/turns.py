# SPDX-License-Identifier: Apache-2.0
"""Who may work on the event loop: all links of a node share what one turn of the loop has for them, so that calls are
answered in between however much the guests have to say. Used by `cri.agent`; made once per node.

It knows nothing of links, and it can't interrupt: whoever has begun stops by itself after `SLICE_S`.
"""

import asyncio
from collections import deque

SLICE_S = 0.002
"""For all links together, in one turn of the event loop."""


class Turns:
    """`begin`, work for at most SLICE_S, `spend` what it took. Who comes when nothing is left waits in a queue."""

    def __init__(self) -> None:
        self._spent_s = 0.0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._is_next_due = False

    async def begin(self) -> None:
        """Wait for one's turn; at once while something is left of this one and nobody else waits."""
        if self._spent_s < SLICE_S and not self._waiting:
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        self._expect_next()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._wake()  # the turn was given to one who does not want it any more
            raise

    def spend(self, seconds: float) -> None:
        """So long the loop was not free."""
        self._spent_s += seconds
        if self._spent_s >= SLICE_S:
            self._expect_next()
        else:
            self._wake()

    def _expect_next(self) -> None:
        if not self._is_next_due:
            self._is_next_due = True
            asyncio.get_running_loop().call_soon(self._next)

    def _next(self) -> None:
        """Another turn of the loop."""
        self._is_next_due, self._spent_s = False, 0.0
        self._wake()
        if self._waiting:
            self._expect_next()

    def _wake(self) -> None:
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
