# SPDX-License-Identifier: Apache-2.0
"""Who uses a pod at the moment, and how it is brought to rest. Owned by the pod; knows no operation.

Use: operations that need the pod's files (`using_files`), tasks that outlive their RPC (`run_in_background`), clients
whose bytes go over the link (`client`), requests to the guest (`asking`), and commands that run there (`execs`).
Quiesce: `quiescing` holds new requests to the guest back, and `is_quiet_within` waits for the earlier ones; `dismiss`
has the clients leave. End: `close` ends the background work and waits for the users of the files.

Two locks order what can't happen at once: `lock` is for stops, suspensions and saves, `removal` for removals.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, TypeVar

from cri.agent import HELPED
from cri.tasks import Tasks
from cri.threads import is_set_within
from stage1.errors import PodError, WrongState
from stage1.guest import messages

T = TypeVar("T")

log = logging.getLogger("clearpod.pod")

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


class _Count:
    """How many are there, and the wait until there are none."""

    def __init__(self) -> None:
        self.number, self.none = 0, asyncio.Event()
        self.none.set()

    @contextmanager
    def one_more(self) -> Iterator[None]:
        self.number += 1
        self.none.clear()
        try:
            yield
        finally:
            self.number -= 1
            if not self.number:
                self.none.set()


class Gate:
    """The users of one pod. `execs` are the numbers of commands that run in the guest; each is removed when it ends."""

    def __init__(self) -> None:
        self.lock, self.removal = asyncio.Lock(), asyncio.Lock()
        self.execs: set[int] = set()
        # The caller gets a PodError; a defect of ours is logged in any case.
        self._background = Tasks(log, "pod.work", expected=PodError)
        self._files, self._requests, self._transfers = _Count(), _Count(), _Count()
        self._clients: set[Client] = set()
        self._clients_left = asyncio.Event()
        self._clients_left.set()
        self._goes_on: asyncio.Event | None = None  # while the guest is brought to rest

    # -- use -------------------------------------------------------------------------------------------------

    @property
    def is_used(self) -> bool:
        """Whether an operation uses the pod's files."""
        return self._files.number > 0

    @contextmanager
    def using_files(self) -> Iterator[None]:
        """The pod's files are not removed while the block runs."""
        with self._files.one_more():
            yield

    def run_in_background(self, work: Coroutine[Any, Any, T], what: str) -> asyncio.Task[T]:
        """Run it in a task that continues when its caller is cancelled, until `close`."""
        return self._background.own(work, what)

    @contextmanager
    def client(self) -> Iterator[Client]:
        """A client, which is here as long as the block runs: it leaves before the pod is suspended, since a link that
        is met again knows nothing of it.
        """
        client = Client()
        self._clients.add(client)
        self._clients_left.clear()
        try:
            yield client
        finally:
            self._clients.remove(client)
            if not self._clients:
                self._clients_left.set()

    @asynccontextmanager
    async def asking(self, op: messages.Op) -> AsyncIterator[None]:
        """Ask the guest that in the block, which begins when it may be asked: what needs its bundles waits while it is
        being saved.
        """
        if not isinstance(op, HELPED):
            yield
            return
        while self._goes_on is not None:
            await self._goes_on.wait()
        with self._requests.one_more():
            yield
            if isinstance(op, messages.Exec):
                self.execs.add(op.exec)

    # -- quiesce ---------------------------------------------------------------------------------------------

    @contextmanager
    def quiescing(self) -> Iterator[None]:
        """Delay all later requests to the guest until the end of the block."""
        self._goes_on = asyncio.Event()
        try:
            yield
        finally:
            self._goes_on.set()
            self._goes_on = None

    async def is_quiet_within(self, limit_s: float) -> bool:
        """While it quiesces: wait, at most so long, until all that was asked before is answered; whether it is, and no
        command runs.
        """
        return await is_set_within(limit_s, self._requests.none) and not self.execs

    async def dismiss(self, why: str) -> None:
        """Have all clients leave, and wait for that, not longer than `LEAVE_S`."""
        for client in self._clients:
            client.tell(why)
        await is_set_within(LEAVE_S, self._clients_left)

    @property
    def is_transferring(self) -> bool:
        """Whether the guest is being written to a file or read from one at the moment."""
        return self._transfers.number > 0

    @contextmanager
    def transferring(self) -> Iterator[None]:
        """Mark the guest as being written or read while the block runs. It has `lock` until the VMM has answered, and
        the VMM may be under the control of a hostile guest: a call that ends the pod asks `is_transfer_over_within`
        before it takes the lock, and kills the VMM if that takes too long.
        """
        with self._transfers.one_more():
            yield

    async def is_transfer_over_within(self, limit_s: float) -> bool:
        """Wait for the transfer's end for at most `limit_s` seconds. Return whether there is none now."""
        return await is_set_within(limit_s, self._transfers.none)

    # -- end -------------------------------------------------------------------------------------------------

    async def cancel_background(self) -> None:
        """Cancel the background work, and wait until it has ended. The pod may live on under another daemon."""
        await self._background.close()

    async def close(self) -> None:
        """Like `cancel_background`, and return when no operation uses the pod's files: they may be removed then."""
        await self.cancel_background()
        await self._files.none.wait()
