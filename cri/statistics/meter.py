# SPDX-License-Identifier: Apache-2.0
"""The numbers of one pod: asks its agent, not more than once at a time, and never waits long.

Owned by the pod, used by the RPCs about stats and metrics. A guest that does not answer costs its caller `PATIENCE_S`
once and no more until it has answered; meanwhile the last sample serves, as long as it is not older than `STALE_S`.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Container
from typing import NamedTuple

from cri.statistics.sample import Disk, Rates, Sample
from stage1.errors import NotFound, PodError, TimedOut
from stage1.guest.messages import ContainerStats, PodStats, Reply, Stats

PATIENCE_S = 1.0
"""crictl gives up after 2 s, for all pods together."""
LEAST_PATIENCE_S = 0.05
ANSWER_S = 60.0
"""After this a question is asked anew: until then the guest has it, and need not get another."""
STALE_S = 10.0
DISK_S = 10.0
"""How old the size of the writable layers may be, as with the peers."""
FRESH_S = 0.5
"""So new a sample is as good as another one: rates have no better resolution (`sample.LEAST_APART_NS`)."""
MOST_ROUNDS = 16
"""A guest that never says that it is done is not believed."""

Ask = Callable[[Stats, float], Awaitable[Reply]]


class Question(NamedTuple):
    """A Stats that the guest has or had; `asked_at` is monotonic seconds."""

    task: asyncio.Task[Sample]
    asked_at: float

    @property
    def is_late(self) -> bool:
        """Whether somebody has waited for it in vain."""
        return time.monotonic() - self.asked_at >= PATIENCE_S

    def patience_s(self) -> float:
        """Who comes while an old question is open does not wait for all that time again."""
        return max(PATIENCE_S - (time.monotonic() - self.asked_at), LEAST_PATIENCE_S)


class Asked(NamedTuple):
    """What somebody waits for: the question, with it what else is asked, and the last sample, in case it is late."""

    question: Question
    tasks: tuple[asyncio.Task[Sample], ...]
    last: Sample | None

    def answer(self) -> Sample:
        """After the wait. Raises as `Meter.sample`."""
        task, last = self.question.task, self.last
        if task.cancelled():
            raise NotFound("the pod was removed while its guest was asked for its numbers")
        if task.done():
            return task.result()
        if last is None or not 0 <= time.time_ns() - last.unix_ns <= STALE_S * 1e9:  # below 0: a clock was set back
            raise TimedOut(f"the guest did not say its numbers within {PATIENCE_S:g} s")
        return last


class Meter:
    """`ask` sends one Stats to the pod's agent and waits so many seconds for its answer. What the guest says of
    containers that are not in `known` is ignored; what it says of the pod is told to `told`.
    """

    def __init__(self, ask: Ask, known: Container[str], told: Callable[[PodStats], None] = lambda _: None) -> None:
        self._ask, self._known, self._told = ask, known, told
        self._rates = Rates()
        self._last: dict[bool, Sample] = {}
        self._open: dict[Stats, Question] = {}
        self._disk_at = 0.0
        self._sampled_at: dict[bool, float] = {}
        self.disks: dict[str, Disk] = {}

    async def sample(self, *, files: bool = False) -> Sample:
        """The pod's numbers now; `files` also counts open files.

        Raises TimedOut when the guest does not answer and nothing recent is known, NotFound when the pod is removed
        meanwhile, and what the agent says.
        """
        asked = self.ask(files=files)
        await asyncio.wait(asked.tasks, timeout=asked.question.patience_s())
        return asked.answer()

    def ask(self, *, files: bool = False) -> Asked:
        """The same for whoever waits for many guests at once."""
        question = self._question(Stats(files=files))
        last = self._last.get(files)
        tasks = [question.task]
        unknown = last is None or any(name not in self.disks for name in last.containers)
        if unknown or time.monotonic() - self._disk_at > DISK_S:
            disk = self._question(Stats(disk=True))
            tasks += [disk.task] if unknown and not disk.is_late else []
        return Asked(question, tuple(tasks), last)

    def current(self) -> asyncio.Task[Sample]:
        """The pod's numbers as they are now, however long the guest takes: for decisions about its limits."""
        return self._question(Stats()).task

    def last(self, *, files: bool = False) -> Sample | None:
        """The last sample, however old."""
        return self._last.get(files) or self._last.get(not files)

    def fresh(self, *, files: bool = False, more_s: float = 0.0) -> Sample | None:
        """The sample of the last moment; None when it is older, or the disks of its containers are not known. `more_s`
        is for callers to whom older ones are still new.
        """
        last = self._last.get(files)
        if last is None or time.monotonic() - self._sampled_at[files] >= FRESH_S + more_s:
            return None
        return last if all(name in self.disks for name in last.containers) else None

    def assume(self, taken_bytes: int) -> None:
        """The guest will not say for a while what took so much of its disk: it was who had most."""
        rest = taken_bytes - sum(disk.used_bytes for disk in self.disks.values())
        if self.disks and rest > 0:
            most = max(self.disks, key=lambda name: self.disks[name].used_bytes)
            known = self.disks[most]
            self.disks[most] = Disk(time.time_ns(), known.used_bytes + rest, known.inodes)

    async def close(self) -> None:
        """Nobody will answer any more."""
        tasks = [question.task for question in self._open.values()]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def _question(self, op: Stats) -> "Question":
        """The one that is open, or a new one."""
        known = self._open.get(op)
        if known is None or known.task.done():
            task = asyncio.get_running_loop().create_task(self._collect(op))
            task.add_done_callback(_retrieve)
            known = self._open[op] = Question(task, time.monotonic())
        return known

    async def _collect(self, op: Stats) -> Sample:
        """All pages of one answer."""
        containers: dict[str, ContainerStats] = {}
        first = None
        for _ in range(MOST_ROUNDS):
            reply = await self._ask(op, ANSWER_S)
            if reply.pod is None:
                raise PodError("the agent answered Stats without numbers")
            first = first or reply.pod
            containers |= {one.id: one for one in reply.stats if one.id in self._known}
            if not reply.pod.next:
                break
            op = op._replace(first=reply.pod.next)
        assert first is not None
        self._told(first)
        now = time.time_ns()
        if op.disk:
            self._disk_at = time.monotonic()
            self.disks = {name: Disk(now, one.disk_bytes, one.disk_inodes) for name, one in containers.items()}
        sample = Sample(now, first, containers, self._rates.update(first, containers.values()))
        if not op.disk:
            self._last[op.files], self._sampled_at[op.files] = sample, time.monotonic()
        return sample


def _retrieve(task: "asyncio.Task[Sample]") -> None:
    """Nobody may be waiting any more: the error is theirs who come next."""
    if not task.cancelled():
        task.exception()
