# SPDX-License-Identifier: Apache-2.0
"""The clients whose bytes go over the link to a pod's guest: those that are attached, and connections to its ports.
They leave before the pod is suspended: a link that is met again knows nothing of them. Owned by the pod.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from cri.threads import is_set_within
from stage1.errors import WrongState

LEAVE_S = 2.0


class Client:
    """One client, which has to leave once `leaving` is set."""

    def __init__(self) -> None:
        self.leaving, self._why = asyncio.Event(), ""

    def tell(self, why: str) -> None:
        """Have it leave, for this reason."""
        self._why = why
        self.leaving.set()

    async def is_to_leave(self) -> None:
        """Wait until it has to leave. Raises WrongState with the reason."""
        await self.leaving.wait()
        raise WrongState(self._why)


class Clients:
    """The clients of one pod, and the wait until there are none."""

    def __init__(self) -> None:
        self._here: set[Client] = set()
        self._empty = asyncio.Event()
        self._empty.set()

    @contextmanager
    def one(self) -> Iterator[Client]:
        """A client, which is here as long as the block runs."""
        client = Client()
        self._here.add(client)
        self._empty.clear()
        try:
            yield client
        finally:
            self._here.remove(client)
            if not self._here:
                self._empty.set()

    async def leave(self, why: str) -> None:
        """Have all leave, and wait for that, not longer than `LEAVE_S`."""
        for client in self._here:
            client.tell(why)
        await is_set_within(LEAVE_S, self._empty)
