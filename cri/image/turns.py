# SPDX-License-Identifier: Apache-2.0
"""How many pulls go on at a time, and which of them makes room for others: one whose registry sends little while others
wait. Used by the pull.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Turns:
    """`count` turns at a time, first come first served. Those that wait hold no resources."""

    def __init__(self, count: int) -> None:
        self._free = asyncio.Semaphore(count)
        self._waiting = self._leaving = 0

    @asynccontextmanager
    async def one(self) -> AsyncIterator["Turn"]:
        """A turn, as soon as there is one."""
        self._waiting += 1
        try:
            await self._free.acquire()
        finally:
            self._waiting -= 1
        turn = Turn(self)
        try:
            yield turn
        finally:
            self._leaving -= turn.is_leaving
            self._free.release()

    def let_leave(self) -> bool:
        """Whether one that offers to leave shall: as many do as wait."""
        is_due = self._waiting > self._leaving
        self._leaving += is_due
        return is_due


class Turn:
    """One of `turns`, for as long as it lasts."""

    def __init__(self, turns: Turns) -> None:
        self._turns = turns
        self.is_leaving = False

    def yields(self) -> bool:
        """Whether this turn shall end for somebody who waits; who asks ends it then."""
        self.is_leaving = self.is_leaving or self._turns.let_leave()
        return self.is_leaving
