# SPDX-License-Identifier: Apache-2.0
"""The node's network apart from single pods: whether it is ready, deferred DELs, and garbage collection.

Made once per node. Plugins are asked in threads of its own, so that one that hangs delays neither Status nor a pod.
"""

import asyncio
import logging
import time
from concurrent.futures import ThreadPoolExecutor

from stage1 import engine, garbage
from stage1.net import neighbours, networks, status_gc
from stage1.net.conflist import Network
from stage1.net.settings import Settings

log = logging.getLogger("clearpod.network")

FRESH_S = 5.0
"""How long an answer to STATUS counts."""
ROUND_S = 60.0
"""How often deferred DELs are tried again."""


class NodeNetwork:
    """`open` collects garbage once and starts the retries of deferred DELs; `readiness` never blocks."""

    def __init__(self, host: engine.Host, *, round_s: float = ROUND_S, fresh_s: float = FRESH_S) -> None:
        self._host, self._round_s, self._fresh_s = host, round_s, fresh_s
        self._pool = ThreadPoolExecutor(2, thread_name_prefix="network-gc")
        self._asked: Network | None = None
        self._answer, self._answered_s = "", 0.0
        self._asking: asyncio.Future[str] | None = None
        self._garbage = asyncio.Event()
        self._reported: tuple[str, ...] = ()
        self._task: asyncio.Task[None] | None = None

    def open(self) -> None:
        """Begin; the event loop must run."""
        if self._host.network:
            self._garbage.set()
            self._task = asyncio.get_running_loop().create_task(self._rounds(), name="network cleanup")
            self.readiness()

    def close(self) -> None:
        """End, without waiting for a plugin that is running. Idempotent."""
        if self._task is not None:
            self._task.cancel()
            neighbours.remove_unused()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def failed(self) -> None:
        """A pod's network failed and may have left something: collect garbage soon."""
        self._garbage.set()

    def readiness(self) -> tuple[bool, str]:
        """Whether pods get a network, and why not, or a note for the operator. Runs no plugin itself."""
        settings = self._host.network
        if settings is None:
            return False, "networks are turned off"
        if why := networks.lacks(settings):
            return False, why
        network = networks.find(settings).network
        if network is not None and (why := self._status_of(network, settings)):
            return False, why
        return True, networks.note(settings)

    def _status_of(self, network: Network, settings: Settings) -> str:
        is_known = network == self._asked and bool(self._answered_s)
        if (not is_known or time.monotonic() - self._answered_s > self._fresh_s) and self._asking is None:
            self._asking = asyncio.get_running_loop().run_in_executor(self._pool, status_gc.status, network, settings)
            self._asking.add_done_callback(lambda done: self._take(network, done))
        if is_known:
            return self._answer
        waits = network.version == status_gc.FIRST
        return f"the plugins of network {network.name!r} have not answered STATUS yet" if waits else ""

    def _take(self, network: Network, done: "asyncio.Future[str]") -> None:
        self._asking = None
        if not done.cancelled() and done.exception() is None:
            self._asked, self._answer, self._answered_s = network, done.result(), time.monotonic()

    async def _rounds(self) -> None:
        loop = asyncio.get_running_loop()
        problems: tuple[str, ...] = ()  # recovery has just done it
        while True:
            if self._garbage.is_set() and self._host.network:
                self._garbage.clear()
                problems += await loop.run_in_executor(self._pool, status_gc.collect_garbage, self._host.network)
            self._tell(problems)
            try:
                async with asyncio.timeout(self._round_s):
                    await self._garbage.wait()
            except TimeoutError:
                pass
            problems = tuple(await loop.run_in_executor(self._pool, garbage.networks, self._host))

    def _tell(self, problems: tuple[str, ...]) -> None:
        """Log each problem when it appears, not each minute."""
        for problem in problems:
            if problem not in self._reported:
                log.warning("network.cleanup", extra={"error": problem})
        self._reported = problems
