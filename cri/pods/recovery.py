# SPDX-License-Identifier: Apache-2.0
"""The pods of the previous daemon: listed at once, then adopted, marked dead or cleaned up in the background, each for
itself. Owned by the table.

No pod waits for another one's guest, VMM or network plugins, and none is forgotten while its VMM may live.
docs/design/recovery.md has the reasons.
"""

import asyncio
import logging
from collections.abc import Callable, Hashable
from typing import NamedTuple

from cri.live.pod import LivePod
from cri.live.tools import Tools, log_deferred_del
from cri.pods import adoption
from cri.retry import backoff
from cri.store import recover
from cri.store.pods import PodRecord, Stored
from cri.tasks import Tasks
from cri.threads import is_set_within, run_uncancellable_in
from stage1 import engine, garbage
from stage1.errors import Exhausted, PodError, Unavailable

log = logging.getLogger("clearpod.pods")

PATIENCE_S = 5.0
"""How much longer than a guest may take to be adopted a call waits for it."""
FIRST_PAUSE_S, LAST_PAUSE_S = 1.0, 300.0
"""Delay between attempts to remove what could not be removed."""


class Lasting(NamedTuple):
    """A pod that is to be listed, with the content of its file; `why` is the reason why it can't be adopted, empty when
    it can.
    """

    pod: LivePod
    stored: Stored
    why: str


def _restored(one: Lasting) -> tuple[LivePod, str]:
    """The pod as its file has it, and why it can't be adopted, once it was looked at; blocks. Raises Exhausted."""
    pod, stored, why = one
    try:
        adoption.restore(pod, stored)
        if not why:
            pod.files.adopted(stored)
    except Exhausted:
        raise  # no statement about the pod: a daemon that starts later adopts it
    except Exception as error:  # noqa: BLE001 - whatever is damaged: it concerns this pod only
        why = f"the previous daemon's record of {pod.title} is damaged: {str(error)[:500]}"
        log.error("pod.damaged", extra={"pod": pod.id, "title": pod.title, "error": why})
        adoption.forget_containers(pod)
    return pod, why


class Recovery:
    """`make` makes a pod of its record, `admit` takes it into the table; `name_of` is what is taken once."""

    def __init__(
        self,
        tools: Tools,
        *,
        make: Callable[[PodRecord], LivePod],
        admit: Callable[[LivePod], None],
        name_of: Callable[[PodRecord], Hashable],
    ) -> None:
        self._tools, self._make, self._admit, self._name_of = tools, make, admit, name_of
        self._tasks = Tasks(log, "pod.unrecovered")
        self._cleaning: dict[Hashable, asyncio.Task[None]] = {}

    async def begin(self) -> None:
        """Read what the previous daemon wrote down, and list its pods; everything else is done after this returns."""
        cleaning, lasting = [], []
        for plan in await asyncio.to_thread(recover.survey, self._tools.host):
            if plan.stored is None or plan.action == recover.CLEAN_UP:
                cleaning.append(self._tasks.own(self._clean_up(plan)))
                if plan.stored is not None:
                    self._cleaning[self._name_of(plan.stored.record)] = cleaning[-1]
            else:
                lasting.append(Lasting(self._make(plan.stored.record), plan.stored, plan.why))
        for pod, why in await asyncio.to_thread(lambda: [_restored(one) for one in lasting]):
            self._admit(pod)
            pod.adopted.clear()
            adoption.give_up_starts(pod)
            if why:
                adoption.mark_unusable(pod, why)
            self._tasks.own(self._mark_dead(pod) if why else self._adopt(pod))
        self._tasks.own(self._collect_garbage(cleaning))

    async def freed(self, name: Hashable) -> None:
        """Wait until the orphans of a pod called `name` are removed. Raises Unavailable when that takes long."""
        task = self._cleaning.get(name)
        if task is None:
            return
        await asyncio.wait({task}, timeout=self._tools.adopt_timeout_s + PATIENCE_S)
        if not task.done():
            raise Unavailable("a pod of this name that the previous daemon had begun is still being removed; retry")

    async def adopted(self, pod: LivePod, *, ends: bool = False) -> None:
        """Wait until the pod is adopted, or marked dead. Raises Unavailable when that takes long. With `ends`, for a
        call that ends something, do not wait for the whole adoption: the guest has only the time of a stop.
        """
        if pod.adopted.is_set():
            return
        if ends and not await is_set_within(self._tools.react_s, pod.adopted) and pod.adopting is not None:
            pod.adopting.reschedule(asyncio.get_running_loop().time())
        if not pod.adopted.is_set() and not await is_set_within(self._tools.adopt_timeout_s + PATIENCE_S, pod.adopted):
            raise Unavailable(f"{pod.title} is still being adopted from the previous daemon; retry")

    def clean_up_later(self, directory: str) -> None:
        """Retry to remove a pod that this daemon could not roll back."""
        self._tasks.own(self._clean_up_later(directory))

    async def settled(self) -> None:
        """Wait until all is done that was begun. For tests."""
        await self._tasks.settled()

    async def close(self) -> None:
        """Stop; the next daemon continues with it."""
        await self._tasks.close()

    async def _adopt(self, pod: LivePod) -> None:
        orphans = adoption.Orphans()
        try:
            orphans = await adoption.adopt(pod)
        finally:
            pod.adopted.set()
        await adoption.remove_orphans(pod, orphans)

    async def _mark_dead(self, pod: LivePod) -> None:
        try:
            await adoption.mark_dead(pod)
        finally:
            pod.adopted.set()

    async def _clean_up(self, plan: recover.Plan) -> None:
        """Remove a half-made pod. When that fails it is listed as not ready if its record can be read, else retried
        later.
        """
        error = await self._try_clean_up(plan.directory)
        if plan.stored is not None:
            del self._cleaning[self._name_of(plan.stored.record)]
            if error:
                pod = self._make(plan.stored.record)
                pod.status = plan.stored.status
                adoption.mark_unusable(pod, f"the partly created {pod.title} can't be removed: {error}")
                self._admit(pod)
                pod.adopted.clear()
                await self._mark_dead(pod)
        elif error:
            self.clean_up_later(plan.directory)

    async def _clean_up_later(self, directory: str) -> None:
        for pause_s in backoff(FIRST_PAUSE_S, LAST_PAUSE_S):
            await asyncio.sleep(pause_s)
            if not await self._try_clean_up(directory):
                return

    async def _try_clean_up(self, directory: str) -> str:
        """Remove the pod in `directory`; return the error, empty when there was none."""
        try:
            log_deferred_del(await run_uncancellable_in(self._tools.pool, engine.clean_up, directory))
        except (PodError, OSError, ValueError) as error:
            log.error("pod.cleanup_failed", extra={"directory": directory, "error": str(error)})
            return str(error)
        log.info("pod.cleaned_up", extra={"directory": directory})
        return ""

    async def _collect_garbage(self, cleaning: list[asyncio.Task[None]]) -> None:
        """Give back what pods have orphans whose directories are gone; those that are being adopted have theirs."""
        if cleaning:
            await asyncio.wait(cleaning)
        host = self._tools.host
        for problem in await run_uncancellable_in(self._tools.pool, garbage.networks, host):
            log_deferred_del(problem)
        run_dirs = (host.run_dir, f"{host.run_dir}/{engine.FOREGROUND}")
        for problem in await run_uncancellable_in(None, garbage.disks, host, run_dirs=run_dirs):
            log.warning("pod.orphans", extra={"warning": problem})
