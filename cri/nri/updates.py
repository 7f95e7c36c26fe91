# SPDX-License-Identifier: Apache-2.0
"""Updates and evictions of existing containers that plugins request. Used by `hub`. The time limit for another
container is that for a plugin, since its guest may hang.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any

from cri.containers import limits
from cri.containers import stop as stops
from cri.live.container import LiveContainer
from cri.live.pod import LivePod
from cri.nri import amounts, calls
from cri.nri.calls import Refused
from cri.nri.plugin import Plugin
from cri.pb import nri_pb2 as nri
from cri.store.pods import ContainerRecord
from cri.tasks import Tasks
from cri.translate import bounds, resources
from stage1.errors import BadRequest, NotFound, PodError

log = logging.getLogger("clearpod.nri")

MOST_UPDATES = 1024
"""The maximum in one message."""
MOST_LOGGED = 16
"""Failures of one message that get a line each."""


class Updates:
    """Owns the tasks that do it; `close` ends them."""

    def __init__(self, pods: Callable[[], list[LivePod]], limit_s: float) -> None:
        self._pods, self._limit_s = pods, limit_s
        self._tasks = Tasks(log, "nri.fault")

    def own(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Keep a task until it ends."""
        return self._tasks.own(work, "nri")

    async def close(self) -> None:
        """Cancel the updates in progress."""
        await self._tasks.close()

    async def apply(
        self, plugin: Plugin, updates: Sequence[nri.ContainerUpdate], *, evict: Sequence[nri.ContainerEviction] = ()
    ) -> list[nri.ContainerUpdate]:
        """Carry out evictions and updates; return the updates that failed and do not ignore it. Of the failures
        a few are logged, and how many more there were.
        """
        if len(updates) + len(evict) > MOST_UPDATES:
            log.warning("nri.update", extra={"plugin": plugin.title, "error": f"more than {MOST_UPDATES} at once"})
            return list(updates[:MOST_UPDATES])
        failures = _Failures(plugin.title)
        for eviction in evict:
            await failures.tried(self._evict(plugin, eviction), eviction.container_id)
        failed = [
            update
            for update in updates
            if not await failures.tried(self._update(plugin, update), update.container_id) and not update.ignore_failure
        ]
        failures.log_rest()
        return failed

    async def briefly(
        self, plugin: Plugin, updates: Iterable[nri.ContainerUpdate], *, evict: Iterable[nri.ContainerEviction]
    ) -> None:
        """Like `apply`, with the time limit of a plugin; after that it continues in the background."""
        changes, evictions = list(updates), list(evict)
        if changes or evictions:
            task = self.own(self.apply(plugin, changes, evict=evictions))
            await asyncio.wait({task}, timeout=self._limit_s)

    async def follow(self, plugin: Plugin, answer: "asyncio.Future[Any]") -> None:
        """Do what the plugin's answer to StopContainer wants."""
        try:
            response = await answer
        except Refused as error:
            reason = calls.shortened(error.message)
            log.warning("nri.refused", extra={"plugin": plugin.title, "method": "StopContainer", "error": reason})
            return
        if response is not None:
            await self.apply(plugin, response.update)

    async def _update(self, plugin: Plugin, wish: nri.ContainerUpdate) -> None:
        pod, container = self._find(wish.container_id)
        given = amounts.to_cri(wish.linux.resources, who=f"the NRI plugin {plugin.title} sets")
        if given.ByteSize():

            def make() -> ContainerRecord:
                return resources.updated_container(container.record, given, pod=pod.record.pod)

            make()  # what makes no sense is refused at once
            await limits.update(pod, container, make=make)

    async def _evict(self, plugin: Plugin, wish: nri.ContainerEviction) -> None:
        pod, container = self._find(wish.container_id)
        extra = {"plugin": plugin.title, "container": container.id, "why": calls.shortened(wish.reason)}
        log.info("nri.evicted", extra=extra)
        await stops.stop(pod, container, grace_s=0)

    def _find(self, container_id: str) -> tuple[LivePod, LiveContainer]:
        if not container_id:
            raise BadRequest("an update needs a container_id")
        for pod in self._pods():
            if container := pod.containers.get(container_id):
                return pod, container
        raise NotFound(f"there is no container {bounds.short(container_id)}")


class _Failures:
    """Failures of what the plugin `title` wants by one message, which may name a thousand unknown containers."""

    def __init__(self, title: str) -> None:
        self._title, self._count = title, 0

    async def tried(self, work: Coroutine[Any, Any, None], container: str) -> bool:
        """Whether it could be done; others have had their turn then."""
        is_done = True
        try:
            await work
        except PodError as error:
            is_done, self._count = False, self._count + 1
            if self._count <= MOST_LOGGED:
                extra = {"plugin": self._title, "container": bounds.short(container), "error": str(error)}
                log.warning("nri.update", extra=extra)
        await asyncio.sleep(0)
        return is_done

    def log_rest(self) -> None:
        """How many more there were."""
        if self._count > MOST_LOGGED:
            error = f"{self._count - MOST_LOGGED} more failed"
            log.warning("nri.update", extra={"plugin": self._title, "error": error})
