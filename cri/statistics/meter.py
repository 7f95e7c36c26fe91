# SPDX-License-Identifier: Apache-2.0
"""The numbers of one pod: asks its agent, not more than once at a time, and never waits long.

Owned by the pod, used by the RPCs about stats and metrics. A guest that does not answer costs its caller `PATIENCE_S`
once and no more until it has answered; meanwhile the last sample serves, as long as it is not older than `STALE_S`.
While somebody asks regularly, a sampler with the same period asks the guest shortly before.
"""

import asyncio
import math
import random
import time
from collections.abc import Awaitable, Callable, Container, Coroutine
from typing import NamedTuple

from cri.statistics.sample import Disk, MissedTime, Rates, Sample
from stage1.errors import NotFound, PodError, TimedOut
from stage1.guest.messages import ContainerStats, PodStats, Reply, Stats

PATIENCE_S = 1.0
"""crictl gives up after 2 s, for all pods together."""
LEAST_PATIENCE_S = 0.05
ANSWER_S = 60.0
"""The time after which a query is repeated: until then the guest is still working on the first one."""
STALE_S = 10.0
DISK_S = 10.0
"""How old the size of the writable layers may be, as with the peers."""
FRESH_S = 0.9
"""The age up to which a sample is used. Below one second, after which `crictl stats` lists again to compute a rate."""
LEAD_S = (0.3, 0.45)
"""How long before the next query is due the sampler asks, each guest at another moment, so that hundreds are not asked
at once. Who asks again after a second finds a sample that is half a second younger than the last, for a rate.
"""
LONGEST_S = 65.0
"""The longest period of a caller for whom the guest is sampled."""
WALK_S = 0.3
"""A first answer about a pod has the sizes of its writable layers too, if these are counted in so short a time."""
MOST_ROUNDS = 16
"""Most answers of one sample: a guest that never ends is cut off."""

Ask = Callable[[Stats, float], Awaitable[Reply]]


class Question(NamedTuple):
    """A Stats that the guest has or had; `asked_at` is monotonic seconds."""

    task: asyncio.Task[Sample]
    asked_at: float

    @property
    def is_late(self) -> bool:
        """Whether a caller has waited for it in vain."""
        return time.monotonic() - self.asked_at >= PATIENCE_S

    def patience_s(self) -> float:
        """A caller that comes while an old query is pending does not wait for the full time again."""
        return max(PATIENCE_S - (time.monotonic() - self.asked_at), LEAST_PATIENCE_S)


class Asked(NamedTuple):
    """A pending query, what else is asked with it, and the last sample in case it is late."""

    question: Question
    tasks: tuple[asyncio.Task[Sample], ...]
    last: Sample | None

    def answer(self) -> Sample:
        """The sample, after the wait. Raises what `Meter.sample` raises."""
        task, last = self.question.task, self.last
        if task.cancelled():
            raise NotFound("the pod was removed while its guest was asked for its statistics")
        if task.done():
            return task.result()
        if last is None or not 0 <= time.time_ns() - last.unix_ns <= STALE_S * 1e9:  # below 0: a clock was set back
            raise TimedOut(f"the guest did not report its statistics within {PATIENCE_S:g} s")
        return last


class Meter:
    """`ask` sends one Stats to the pod's agent and waits so many seconds for its answer. Statistics of containers that
    are not in `known` are ignored; those of the pod are passed to `on_pod`.
    """

    def __init__(self, ask: Ask, known: Container[str], on_pod: Callable[[PodStats], None] = lambda _: None) -> None:
        self._ask, self._known, self._on_pod = ask, known, on_pod
        self._rates, self._missed = Rates(), MissedTime()
        self._last: dict[bool, Sample] = {}
        self._open: dict[object, Question] = {}
        self._disk_at, self._has_begun, self._is_closed = 0.0, False, False
        self._queried_s: dict[bool, float] = {}
        self._period_s: dict[bool, float] = {}
        self._timers: dict[bool, asyncio.TimerHandle] = {}
        self._lead_s = random.uniform(*LEAD_S)
        self._sampled_at: dict[bool, float] = {}
        self.disks: dict[str, Disk] = {}

    async def sample(self, *, files: bool = False) -> Sample:
        """The pod's numbers now; `files` also counts open files.

        Raises TimedOut when the guest does not answer and nothing recent is known, NotFound when the pod is removed
        meanwhile, and the agent's errors.
        """
        asked = self.ask(files=files)
        await asyncio.wait(asked.tasks, timeout=asked.question.patience_s())
        return asked.answer()

    def ask(self, *, files: bool = False) -> Asked:
        """The same for a caller that waits for many guests concurrently."""
        last = self._last.get(files)
        has_begun, self._has_begun = self._has_begun, False
        if last is None or has_begun or any(name not in self.disks for name in last.containers):
            disk = self._question(Stats(files=files, disk=True))
            if not disk.is_late:
                question = self._open_question(("first", files), self._first(disk, files=files))
                return Asked(question, (question.task, disk.task), last)
        elif time.monotonic() - self._disk_at > DISK_S:
            self._question(Stats(disk=True))
        question = self._question(Stats(files=files))
        return Asked(question, (question.task,), last)

    def current(self) -> asyncio.Task[Sample]:
        """The pod's numbers as they are now, however long the guest takes: for decisions about its limits."""
        return self._question(Stats()).task

    def last(self, *, files: bool = False) -> Sample | None:
        """The last sample, however old."""
        return self._last.get(files) or self._last.get(not files)

    def query(self, *, files: bool = False) -> Sample | None:
        """Like `fresh`, for a caller who may ask again; call `answered` when it has its answer."""
        now_s, last_s = time.monotonic(), self._queried_s.get(files, -math.inf)
        if now_s - last_s >= FRESH_S:  # else it is of the same round: stats of pods and of containers
            self._queried_s[files], self._period_s[files] = now_s, now_s - last_s
        return self.fresh(files=files)

    def answered(self, *, files: bool = False) -> None:
        """A `query` is answered: sample again shortly before the next one, if somebody asks regularly. A round without
        a query is the last one.
        """
        period_s = self._period_s.get(files, math.inf)
        if period_s > LONGEST_S or self._is_closed:
            return
        if files in self._timers:
            self._timers[files].cancel()
        in_s = self._queried_s[files] + period_s - self._lead_s - time.monotonic()
        self._timers[files] = asyncio.get_running_loop().call_later(max(in_s, 0), self._renew, files)

    def _renew(self, files: bool) -> None:
        """Ask, unless a sample will still be new when it is wanted."""
        if self.fresh(files=files, within_s=FRESH_S - self._lead_s) is None:
            self.ask(files=files)

    def begin(self) -> None:
        """A container has started: the next answer has the sizes of writable layers too."""
        self._has_begun = True

    def fresh(self, *, files: bool = False, within_s: float | None = None) -> Sample | None:
        """The sample of the last moment; None when it is older, or the disks of its containers are not known."""
        last, within_s = self._last.get(files), FRESH_S if within_s is None else within_s
        if last is None or time.monotonic() - self._sampled_at[files] >= within_s:
            return None
        return last if all(name in self.disks for name in last.containers) else None

    def assume(self, taken_bytes: int) -> None:
        """Attribute the growth of the disk to the container that had most, until the guest measures it again."""
        rest = taken_bytes - sum(disk.used_bytes for disk in self.disks.values())
        if self.disks and rest > 0:
            most = max(self.disks, key=lambda name: self.disks[name].used_bytes)
            known = self.disks[most]
            self.disks[most] = Disk(time.time_ns(), known.used_bytes + rest, known.inodes)

    async def close(self) -> None:
        """There will be no more answers: fail the pending query."""
        self._is_closed = True
        for timer in self._timers.values():
            timer.cancel()
        tasks = [question.task for question in self._open.values()]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def _question(self, op: Stats) -> "Question":
        """The one that is open, or a new one."""
        return self._open_question(op, self._all_pages(op))

    def _open_question(self, key: object, work: Coroutine[None, None, Sample]) -> "Question":
        known = self._open.get(key)
        if known is not None and not known.task.done():
            work.close()
            return known
        task = asyncio.get_running_loop().create_task(work)
        task.add_done_callback(_retrieve)
        known = self._open[key] = Question(task, time.monotonic())
        return known

    async def _first(self, disk: Question, *, files: bool) -> Sample:
        """One answer about everything, and if counting what is on the disk takes long, another without that."""
        done, _ = await asyncio.wait({disk.task}, timeout=WALK_S)
        if not done:
            return await asyncio.shield(self._question(Stats(files=files)).task)
        sample = disk.task.result()
        if self._last.get(files) is not sample:  # it was only just in time
            self._keep(sample, files=files)
        return sample

    async def _all_pages(self, op: Stats) -> Sample:
        """All pages of one answer."""
        begun_s = time.monotonic()
        containers: dict[str, ContainerStats] = {}
        first = None
        for _ in range(MOST_ROUNDS):
            reply = await self._ask(op, ANSWER_S)
            if reply.pod is None:
                raise PodError("the agent answered Stats without statistics")
            first = first or reply.pod
            containers |= {one.id: one for one in reply.stats if one.id in self._known}
            if not reply.pod.next:
                break
            op = op._replace(first=reply.pod.next)
        assert first is not None
        first = self._missed.added(first, containers.values())
        self._on_pod(first)
        now = time.time_ns()
        if op.disk:
            self._disk_at = time.monotonic()
            self.disks = {name: Disk(now, one.disk_bytes, one.disk_inodes) for name, one in containers.items()}
        sample = Sample(now, first, containers, self._rates.update(first, containers.values()))
        took_s = time.monotonic() - begun_s
        if took_s < WALK_S or not op.disk:  # else what was counted first is older than it says
            self._keep(sample, files=op.files)
        return sample

    def _keep(self, sample: Sample, *, files: bool) -> None:
        """Answer later callers with this sample, which has just arrived."""
        self._last[files], self._sampled_at[files] = sample, time.monotonic()


def _retrieve(task: "asyncio.Task[Sample]") -> None:
    """Retrieve the error, which the next caller gets: there may be no waiter any more."""
    if not task.cancelled():
        task.exception()
