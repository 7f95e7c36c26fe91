# SPDX-License-Identifier: Apache-2.0
"""Reclaims cached files of guests while the host is short of memory, as `cri.memory.reclaim` decides.

What a guest has dropped reaches the host by its balloon's reports, so this runs only where the hypervisor has them. A
guest that does not answer delays no other, and is logged.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable

from cri.live.pod import LivePod
from cri.memory import reclaim
from cri.memory.reclaim import Ask, Guest
from stage1.errors import PodError
from stage1.guest.messages import Tune
from stage1.linux import pressure
from stage1.linux.pressure import Shortage

TICK_S, ANSWER_S = 10.0, 10.0

log = logging.getLogger("clearpod.reclaim")


class Reclaimer:
    """`pods` gives the pods that there are now."""

    def __init__(
        self,
        pods: Callable[[], Iterable[LivePod]],
        shortage: Callable[[], Shortage] = pressure.shortage,
        *,
        worth_bytes: int = reclaim.WORTH_BYTES,
    ) -> None:
        """Guests with less cache than `worth_bytes` are not asked."""
        self._pods, self._shortage, self._worth = pods, shortage, worth_bytes
        self._rests: dict[str, float] = {}
        self._task: asyncio.Task[None] | None = None

    def open(self) -> None:
        """Begin to watch for shortage."""
        self._task = asyncio.get_running_loop().create_task(self._live(), name="reclaim")

    async def close(self) -> None:
        """End. Idempotent."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    async def _live(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            await self.tick()

    async def tick(self) -> None:
        """Look at the host, and at the guests if it is short; ask those that have the most."""
        host = self._shortage()
        if not reclaim.is_short(host):
            return
        pods = {pod.id: pod for pod in self._pods() if pod.is_ready and not pod.record.pod.host}
        self._rests = {pod_id: until for pod_id, until in self._rests.items() if pod_id in pods}
        guests = await asyncio.gather(*(self._guest(pod) for pod in pods.values()))
        asked = reclaim.decide(host, guests, now_s=time.monotonic(), worth_bytes=self._worth)
        await asyncio.gather(*(self._ask(pods[ask.id], ask) for ask in asked))

    async def _guest(self, pod: LivePod) -> Guest:
        try:
            sample = await pod.meter.sample()
        except PodError:
            return Guest(pod.id, 0)
        cache = sum(one.memory.inactive_file for one in sample.containers.values() if one.memory)
        return Guest(pod.id, cache, self._rests.get(pod.id, 0.0))

    async def _ask(self, pod: LivePod, ask: Ask) -> None:
        rest_s = reclaim.AGAIN_S
        try:
            await pod.call(Tune("memory.reclaim", str(ask.bytes)), timeout_s=ANSWER_S)
            log.info("pod.reclaimed", extra={"pod": pod.id, "bytes": ask.bytes})
        except PodError as error:
            rest_s = reclaim.AFTER_FAULT_S
            log.warning("pod.reclaimed", extra={"pod": pod.id, "error": str(error)})
        self._rests[pod.id] = time.monotonic() + rest_s
