# SPDX-License-Identifier: Apache-2.0
"""Samples of many pods at once, for lists: all guests are asked together, and those that can't answer are left out.

Called by the RPCs about stats and metrics.
"""

import asyncio
import logging
from collections.abc import Iterable, Mapping
from typing import Protocol, TypeVar

from cri.statistics.meter import Meter
from cri.statistics.sample import Sample
from stage1.errors import PodError

log = logging.getLogger("clearpod.stats")


class Runs(Protocol):
    """As much of a container."""

    @property
    def is_running(self) -> bool:
        """Whether it has a process."""


class Metered(Protocol):
    """As much of a live pod as its numbers need; `held` is why its VM is stopped, empty when it runs."""

    held: str
    meter: Meter

    @property
    def containers(self) -> Mapping[str, Runs]:
        """Its containers by id."""

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
    """The pod's sample, None when it has no VM any more; of one that is held the last one. Raises as `Meter.sample`.

    A sample of the last moment is not asked for again if it has all containers that run.
    """
    if pod.held and (last := pod.meter.last(files=files)):
        return last
    if not pod.is_ready:
        return None
    running = (name for name, one in pod.containers.items() if one.is_running)
    if (fresh := pod.meter.fresh(files=files)) and all(name in fresh.containers for name in running):
        return fresh
    return await pod.meter.sample(files=files)


async def samples_of(pods: Iterable[AnyPod], *, files: bool = False) -> list[tuple[AnyPod, Sample]]:
    """The ready ones of `pods` with their samples, in the same order."""
    ready = [pod for pod in pods if pod.is_ready]
    samples = await asyncio.gather(*(_try(pod, files=files) for pod in ready))
    return [(pod, sample) for pod, sample in zip(ready, samples, strict=True) if sample is not None]


async def _try(pod: Metered, *, files: bool) -> Sample | None:
    try:
        return await sample_of(pod, files=files)
    except PodError as error:
        log.info("stats.missing", extra={"pod": pod.id, "title": pod.title, "error": str(error)})
        return None
