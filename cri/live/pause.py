# SPDX-License-Identifier: Apache-2.0
"""Holds back what is asked of a pod's guest and needs its bundles, while it is being saved. Owned by the pod."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from cri.agent import HELPED
from cri.threads import is_set_within
from stage1.guest import messages


class Pause:
    """The pause of one guest; without one nothing waits. `execs` are the numbers of commands that run in the guest;
    each is removed when it ends.
    """

    def __init__(self) -> None:
        self._over: asyncio.Event | None = None
        self._asked, self._quiet = 0, asyncio.Event()
        self._quiet.set()
        self.execs: set[int] = set()

    @contextmanager
    def holding(self) -> Iterator[None]:
        """Delay all later requests until the end of the block."""
        self._over = asyncio.Event()
        try:
            yield
        finally:
            self._over.set()
            self._over = None

    @asynccontextmanager
    async def passing(self, op: messages.Op) -> AsyncIterator[None]:
        """Ask the guest that in the block, which begins when it may be asked."""
        if not isinstance(op, HELPED):
            yield
            return
        while self._over is not None:
            await self._over.wait()
        self._asked += 1
        self._quiet.clear()
        try:
            yield
            if isinstance(op, messages.Exec):
                self.execs.add(op.exec)
        finally:
            self._asked -= 1
            if not self._asked:
                self._quiet.set()

    async def is_quiet_within(self, limit_s: float) -> bool:
        """While it holds: wait, at most so long, until all that was asked before is answered; whether it is, and no
        command runs.
        """
        return await is_set_within(limit_s, self._quiet) and not self.execs
