# SPDX-License-Identifier: Apache-2.0
"""The warm pool: slots with prewarmed VMs, which are booted one at a time and while no pod is starting.

Made by the node. The table claims a slot for a pod that its VM fits (`fit`). Each slot is a pod without a name, with
the state BOOTING in its file: so the next daemon removes the slots of one that was killed, and a daemon that is stopped
drains the pool. It knows no RPC, and a claimed VM is not in the pool any more. docs/design/pool.md has the reasons.
"""

import asyncio
import logging
import math
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from cri.live import boot
from cri.pool import fit
from cri.store.pods import PodRecord
from stage1.errors import PodError
from stage1.linux.host import memory_mib

if TYPE_CHECKING:
    from cri.live.pod import LivePod
    from stage1.pod.model import Pod

log = logging.getLogger("clearpod.pool")

Make = Callable[[PodRecord], "LivePod"]
WITHOUT_NETWORK_S = 60.0
"""How long slots are filled without a network after a pod got none."""


class Pool:
    """`claim` and `starting` may be called at any time; it is empty before `open` and after `close`."""

    def __init__(self, bounds: fit.Bounds, make: Make, *, memory: Callable[[], tuple[int, int]] = memory_mib) -> None:
        """`make` makes a pod, `memory` gives the host's memory and how much of it is available, in MiB."""
        self._bounds, self._make, self._memory = bounds, make, memory
        self._plain: Pod | None = None
        self._slots: dict[LivePod, asyncio.Task[None]] = {}
        self._ending: set[asyncio.Task[None]] = set()
        self._counts = dict.fromkeys(("booted", "taken", "missed", "died", "failed", "unfit"), 0)
        self._starting, self._failures = 0, 0
        self._started_s = self._failed_s = self._network_from_s = -math.inf
        self._has_network = self._is_closed = False
        self._renewing: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def open(self, plain: "Pod") -> None:
        """Begin to fill the slots: `plain` is a pod that asks for nothing special. The event loop must run."""
        if self._bounds.size:
            self._plain, self._is_closed = plain, False
            self._task = asyncio.get_running_loop().create_task(self._refill(), name="pool")

    async def replace(self, plain: "Pod") -> None:
        """Fill slots with VMs for pods as `plain` from now on, and end others. Without effect unless it is open."""
        await self._renewed()
        if self._task is not None and self._plain is not None and not fit.fits(plain, self._plain):
            await self.close()
            self.open(plain)

    @property
    def waiting(self) -> int:
        """How many slots have a VM."""
        return len(self._slots)

    def pods(self) -> "list[LivePod]":
        """The pods in the slots."""
        return list(self._slots)

    def counts(self) -> dict[str, int]:
        """The number of slots, and how many have a VM; since the daemon's start, how many were booted and claimed, pods
        that got none, VMs that died before or when they were claimed, boots that failed, networks that did not fit.
        """
        each = self._plain.memory_mib if self._plain else 1
        return {"size": fit.most(self._bounds, each), "waiting": len(self._slots), **self._counts}

    @contextmanager
    def starting(self) -> Iterator[None]:
        """`with pool.starting():` no slot is filled while a pod is starting, and a moment after."""
        self._starting += 1
        try:
            yield
        finally:
            self._starting -= 1
            self._started_s = time.monotonic()
            self._changed.set()

    def claim(self, requested: "Pod") -> "LivePod | None":
        """The pod with a VM that fits `requested`, the oldest one; the caller owns it now. None when there is none."""
        pod = next((pod for pod in self._slots if fit.fits(requested, pod.record.pod) and not pod.gone.is_set()), None)
        if pod is not None:
            self._slots.pop(pod).cancel()
            self._count("taken")
        elif self._task is not None:
            self._count("missed")
        return pod

    def report_dead(self, why: PodError) -> None:
        """Count and log a claimed VM that turned out to be dead, and was discarded."""
        self._count("died")
        log.warning("pool.died", extra={"error": str(why)})

    def network_failed(self) -> None:
        """A pod got no network, perhaps since slots have the last addresses: end their VMs, and let others wait without
        for a while.
        """
        self._network_from_s = time.monotonic() + WITHOUT_NETWORK_S
        if self._has_network and self._plain is not None and self._task is not None:
            self._has_network = False
            renewal = self._renew(self._plain)
            self._renewing = asyncio.get_running_loop().create_task(renewal, name="pool without networks")

    async def _renew(self, plain: "Pod") -> None:
        await self._drain()
        if not self._is_closed:
            self.open(plain)

    async def _renewed(self) -> None:
        if self._renewing is not None:
            await asyncio.wait({self._renewing})

    async def disable(self, why: PodError) -> None:
        """The pods' network can't be joined by prewarmed VMs: end them all, until the daemon is restarted."""
        self._count("unfit")
        log.warning("pool.off", extra={"error": str(why)})
        await self.close()

    async def close(self) -> None:
        """End all VMs in slots, also one that is booting. Idempotent."""
        self._is_closed = True
        await self._renewed()
        await self._drain()

    async def _drain(self) -> None:
        task, self._task = self._task, None
        if task is not None and task is not asyncio.current_task():
            task.cancel()
            await asyncio.wait({task})
        waiting, self._slots = self._slots, {}
        for watcher in waiting.values():
            watcher.cancel()
        await asyncio.gather(*self._ending, *(boot.discard(pod) for pod in waiting))
        if waiting:
            log.info("pool.drained", extra={"pods": len(waiting)})

    def _count(self, what: str) -> None:
        self._counts[what] += 1

    async def _refill(self) -> None:
        while True:
            self._changed.clear()
            pause_s = fit.pause_s(self._bounds, self._observed())
            if not pause_s:
                await self._prewarm_one()
                continue
            try:
                async with asyncio.timeout(None if math.isinf(pause_s) else pause_s):
                    await self._changed.wait()
            except TimeoutError:
                pass

    def _observed(self) -> fit.Observed:
        assert self._plain is not None
        now = time.monotonic()
        host_mib, available_mib = self._memory()
        return fit.Observed(
            waiting=len(self._slots),
            starting=self._starting,
            quiet_s=now - self._started_s,
            failures=self._failures,
            failed_s=now - self._failed_s,
            each_mib=self._plain.memory_mib,
            host_mib=host_mib,
            available_mib=available_mib,
        )

    async def _prewarm_one(self) -> None:
        assert self._plain is not None
        pod_id = secrets.token_hex(32)
        anonymous = self._plain._replace(id=pod_id, name=pod_id[:13], namespace="pool")
        pod = self._make(PodRecord(anonymous, b"", "", time.time_ns()))
        try:
            if await boot.prewarm(pod, with_network=time.monotonic() >= self._network_from_s):
                self._has_network = True
        except (PodError, OSError) as error:
            self._failures, self._failed_s = self._failures + 1, time.monotonic()
            self._count("failed")
            log.warning("pool.failed", extra={"error": str(error)})
            return
        self._failures = 0
        self._count("booted")
        self._slots[pod] = asyncio.get_running_loop().create_task(self._watch_slot(pod), name=f"slot of {pod.id}")
        log.info("pool.prewarmed", extra={"pod": pod.id, "waiting": len(self._slots)})

    async def _watch_slot(self, pod: "LivePod") -> None:
        """Replace a VM that ends in its slot."""
        await pod.gone.wait()
        del self._slots[pod]
        self._count("died")
        log.warning("pool.died", extra={"pod": pod.id, "error": "its virtual machine ended before it was claimed"})
        ending = asyncio.get_running_loop().create_task(boot.discard(pod), name=f"end of {pod.id}")
        self._ending.add(ending)
        ending.add_done_callback(self._ending.discard)
        self._changed.set()
