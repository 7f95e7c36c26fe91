# SPDX-License-Identifier: Apache-2.0
"""The warm pool: VMs that are booted before anybody asks for a pod, one at a time and while no pod is starting.

Made by the node, used by the table, which takes one for a pod that it fits (`fit`). Each is a pod without a name, whose
file says that it is booting: so a daemon that is killed leaves what the next one collects, and one that ends
in order drains the pool. It knows no RPC, and a VM that was taken is not its own any more.
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


class Pool:
    """`take` and `starting` at any time; it is empty until `open` has said what waits, and after `close`."""

    def __init__(self, bounds: fit.Bounds, make: Make, *, memory: Callable[[], tuple[int, int]] = memory_mib) -> None:
        """`make` makes a pod, `memory` tells the host's memory and what of it is available."""
        self._bounds, self._make, self._memory = bounds, make, memory
        self._plain: Pod | None = None
        self._waiting: dict[LivePod, asyncio.Task[None]] = {}
        self._ending: set[asyncio.Task[None]] = set()
        self._counts = dict.fromkeys(("booted", "taken", "missed", "died", "failed", "unfit"), 0)
        self._starting, self._failures = 0, 0
        self._started_s = self._failed_s = -math.inf
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def open(self, plain: "Pod") -> None:
        """Begin to boot: `plain` is a pod that asks for nothing special. The event loop must run."""
        if self._bounds.size:
            self._plain = plain
            self._task = asyncio.get_running_loop().create_task(self._refill(), name="pool")

    async def replace(self, plain: "Pod") -> None:
        """Let pods wait that are as `plain` from now on; those that differ end. Nothing happens when it is not open."""
        if self._task is not None and self._plain is not None and not fit.fits(plain, self._plain):
            await self.close()
            self.open(plain)

    @property
    def waiting(self) -> int:
        """How many VMs wait."""
        return len(self._waiting)

    def pods(self) -> "list[LivePod]":
        """Those that wait."""
        return list(self._waiting)

    def counts(self) -> dict[str, int]:
        """How many are wanted and how many wait; since the daemon's start, how many were booted and taken, pods that
        found none, VMs that died before or when they were wanted, boots that failed, networks that did not fit.
        """
        each = self._plain.memory_mib if self._plain else 1
        return {"size": fit.most(self._bounds, each), "waiting": len(self._waiting), **self._counts}

    @contextmanager
    def starting(self) -> Iterator[None]:
        """`with pool.starting():` nothing is begun to boot ahead while a pod is starting, and a moment after."""
        self._starting += 1
        try:
            yield
        finally:
            self._starting -= 1
            self._started_s = time.monotonic()
            self._changed.set()

    def take(self, requested: "Pod") -> "LivePod | None":
        """A VM that can become `requested`, the one that waited longest; it is the caller's now. None when none can."""
        pod = next(
            (pod for pod in self._waiting if fit.fits(requested, pod.record.pod) and not pod.gone.is_set()), None
        )
        if pod is not None:
            self._waiting.pop(pod).cancel()
            self._count("taken")
        elif self._task is not None:
            self._count("missed")
        return pod

    def has_died(self, why: PodError) -> None:
        """A VM that was taken turned out to be dead, and is removed."""
        self._count("died")
        log.warning("pool.died", extra={"error": str(why)})

    async def does_not_fit(self, why: PodError) -> None:
        """The pods' network is none for VMs that wait: end them all, until the daemon starts again."""
        self._count("unfit")
        log.warning("pool.off", extra={"error": str(why)})
        await self.close()

    async def close(self) -> None:
        """End what waits and what boots. Again is fine."""
        task, self._task = self._task, None
        if task is not None and task is not asyncio.current_task():
            task.cancel()
            await asyncio.wait({task})
        waiting, self._waiting = self._waiting, {}
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
            pause_s = fit.pause_s(self._bounds, self._seen())
            if not pause_s:
                await self._boot_one()
                continue
            try:
                async with asyncio.timeout(None if math.isinf(pause_s) else pause_s):
                    await self._changed.wait()
            except TimeoutError:
                pass

    def _seen(self) -> fit.Seen:
        assert self._plain is not None
        now = time.monotonic()
        host_mib, available_mib = self._memory()
        return fit.Seen(
            waiting=len(self._waiting),
            starting=self._starting,
            quiet_s=now - self._started_s,
            failures=self._failures,
            failed_s=now - self._failed_s,
            each_mib=self._plain.memory_mib,
            host_mib=host_mib,
            available_mib=available_mib,
        )

    async def _boot_one(self) -> None:
        assert self._plain is not None
        pod_id = secrets.token_hex(32)
        anonymous = self._plain._replace(id=pod_id, name=pod_id[:13], namespace="pool")
        pod = self._make(PodRecord(anonymous, b"", "", time.time_ns()))
        try:
            await boot.prewarm(pod)
        except (PodError, OSError) as error:
            self._failures, self._failed_s = self._failures + 1, time.monotonic()
            self._count("failed")
            log.warning("pool.failed", extra={"error": str(error)})
            return
        self._failures = 0
        self._count("booted")
        self._waiting[pod] = asyncio.get_running_loop().create_task(self._watch(pod), name=f"wait of {pod.id}")
        log.info("pool.waiting", extra={"pod": pod.id, "waiting": len(self._waiting)})

    async def _watch(self, pod: "LivePod") -> None:
        """A VM that ends while it waits is replaced."""
        await pod.gone.wait()
        del self._waiting[pod]
        self._count("died")
        log.warning("pool.died", extra={"pod": pod.id, "error": "its virtual machine ended while it waited"})
        ending = asyncio.get_running_loop().create_task(boot.discard(pod), name=f"end of {pod.id}")
        self._ending.add(ending)
        ending.add_done_callback(self._ending.discard)
        self._changed.set()
