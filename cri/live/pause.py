# SPDX-License-Identifier: Apache-2.0
"""Holds back what is asked of a pod's guest and needs its bundles, while it is being copied. Owned by the pod."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from cri.agent import HELPED
from stage1.guest import messages


class Pause:
    """Nobody waits while there is none."""

    def __init__(self) -> None:
        self._over: asyncio.Event | None = None

    @contextmanager
    def holding(self) -> Iterator[None]:
        """Delay all later requests until the end of the block."""
        self._over = asyncio.Event()
        try:
            yield
        finally:
            self._over.set()
            self._over = None

    async def over(self, op: messages.Op) -> None:
        """Return when the guest may be asked that."""
        while self._over is not None and isinstance(op, HELPED):
            await self._over.wait()
