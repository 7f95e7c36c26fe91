# SPDX-License-Identifier: Apache-2.0
"""Consumers of a guest's output on one stream, and how long the link waits for them: logs, queues of clients, and
commands whose output is kept. Used by `cri.agent`, which does not know their kinds.
"""

import asyncio
from collections.abc import Iterable
from typing import Protocol

WRITING_S = 0.02
"""How long output may take to get into its log before it is committed. A disk takes much less, or is slow and delays
only its own log.
"""


class Consumer(Protocol):
    """Takes one stream's data. `feed` returns how many bytes it has finished with; the others are returned as credit
    later, by `Agent.consumed`. `writing` is optional work that is given a moment before `commit`; what it does not
    finish, `commit` must keep.
    """

    def feed(self, data: bytes, *, seq: int, end: bool) -> int: ...

    def writing(self) -> "asyncio.Task[None] | None": ...

    def commit(self) -> None: ...


async def written(consumers: Iterable[Consumer]) -> bool:
    """Give output a moment to be written, so that it need not also be recorded as unwritten. Return whether there was
    any to be written.
    """
    works = {work for consumer in consumers if (work := consumer.writing()) is not None}
    if works:
        await asyncio.wait(works, timeout=WRITING_S)
    return bool(works)


class Discarded:
    """The consumer that discards output."""

    def feed(self, data: bytes, *, seq: int, end: bool) -> int:
        """All of it is done with."""
        return len(data)

    def writing(self) -> "asyncio.Task[None] | None":
        """Return None: nothing is written in the background."""
        return None

    def commit(self) -> None:
        """Do nothing: discarded output is not durable."""
