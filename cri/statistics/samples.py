# SPDX-License-Identifier: Apache-2.0
"""Samples of many pods at once, for lists: all guests are asked together, and those that can't answer are left out.

Called by the RPCs about stats and metrics.
"""

import asyncio
import logging
import time
from collections.abc import Iterable, Mapping
from typing import Protocol, TypeVar

from cri.statistics.meter import Asked, Meter
from cri.statistics.sample import Sample
from stage1.errors import PodError

log = logging.getLogger("clearpod.stats")


class Runs(Protocol):
    """The part of a container that statistics need."""

    @property
    def is_running(self) -> bool:
        """Whether it has a process."""


class Metered(Protocol):
    """The part of a live pod that statistics need; `held` is why its VM is paused, or saved and ended
    (`is_suspended`), empty if it runs.
    """

    held: str
    is_suspended: bool
    meter: Meter

    @property
    def containers(self) -> Mapping[str, Runs]:
        """The pod's containers by id."""

    @property
    def id(self) -> str:
        """The pod's id."""

    @property
    def title(self) -> str:
        """The pod's display name."""

    @property
    def is_ready(self) -> bool:
        """Whether its VM runs."""


AnyPod = TypeVar("AnyPod", bound=Metered)


async def sample_of(pod: Metered, *, files: bool = False) -> Sample | None:
    """The pod's sample, None when it has no VM any more; of one that is held the last one, without its memory if it is
    suspended. Raises as `Meter.sample`.

    A sample of the last moment is not asked for again if it has all containers that run.
    """
    if pod.is_suspended or (not pod.is_ready and not pod.held):
        return _known(pod, files=files)
    if known := _known(pod, files=files):
        return known
    if not pod.is_ready:
        return None
    try:
        return await pod.meter.sample(files=files)
    finally:
        pod.meter.answered(files=files)


def _known(pod: Metered, *, files: bool) -> Sample | None:
    """What is known without asking the guest."""
    if not pod.is_ready and not pod.held:
        return None
    if pod.held and (last := pod.meter.last(files=files)):
        return last.at_rest(time.time_ns()) if pod.is_suspended else last
    if pod.is_suspended:
        return None
    fresh = pod.meter.query(files=files)
    if fresh and all(name in fresh.containers for name, one in pod.containers.items() if one.is_running):
        pod.meter.answered(files=files)
        return fresh
    return None


async def samples_of(pods: Iterable[AnyPod], *, files: bool = False) -> list[tuple[AnyPod, Sample]]:
    """The ready ones of `pods` with their samples, in the same order. The guests are waited for together, since a task
    and a timeout for each would cost more than the answers.
    """
    asked = [(pod, known) for pod in pods if pod.is_ready and (known := _known_or_asked(pod, files=files))]
    waiting = [(pod, one) for pod, one in asked if isinstance(one, Asked)]
    await _wait([one for _, one in waiting])
    for pod, _ in waiting:
        pod.meter.answered(files=files)
    samples = ((pod, _answer(pod, one) if isinstance(one, Asked) else one) for pod, one in asked)
    return [(pod, sample) for pod, sample in samples if sample is not None]


def _known_or_asked(pod: Metered, *, files: bool) -> Sample | Asked | None:
    known = _known(pod, files=files)
    return known if known or pod.is_suspended else pod.meter.ask(files=files)


async def _wait(asked: list[Asked]) -> None:
    """Wait for the answers; guests that are late already get only the time that the others have left."""
    groups: dict[bool, list[Asked]] = {False: [], True: []}
    for one in asked:
        groups[one.question.is_late].append(one)
    for group in filter(None, groups.values()):
        limit_s = max(one.question.patience_s() for one in group)
        await asyncio.wait([task for one in group for task in one.tasks], timeout=limit_s)


def _answer(pod: Metered, asked: Asked) -> Sample | None:
    try:
        return asked.answer()
    except PodError as error:
        log.info("stats.missing", extra={"pod": pod.id, "title": pod.title, "error": str(error)})
        return None
