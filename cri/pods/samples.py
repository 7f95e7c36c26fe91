# SPDX-License-Identifier: Apache-2.0
"""Samples of many pods at once, for lists: all guests are asked together, and those that can't answer are left out.

Called by the RPCs about stats and metrics.
"""

import asyncio
import logging
from collections.abc import Iterable

from cri.pods.pod import LivePod
from cri.stats import Sample
from stage1.errors import PodError

log = logging.getLogger("clearpod.stats")


async def sample_of(pod: LivePod, *, files: bool = False) -> Sample | None:
    """The pod's sample, None when it has no VM any more; of one that is held the last one. Raises as `Meter.sample`."""
    if pod.held and (last := pod.meter.last(files=files)):
        return last
    return await pod.meter.sample(files=files) if pod.is_ready else None


async def samples_of(pods: Iterable[LivePod], *, files: bool = False) -> list[tuple[LivePod, Sample]]:
    """The ready ones of `pods` with their samples, in the same order."""
    ready = [pod for pod in pods if pod.is_ready]
    found = await asyncio.gather(*(_try(pod, files=files) for pod in ready))
    return [(pod, sample) for pod, sample in zip(ready, found, strict=True) if sample is not None]


async def _try(pod: LivePod, *, files: bool) -> Sample | None:
    try:
        return await sample_of(pod, files=files)
    except PodError as error:
        log.info("stats.missing", extra={"pod": pod.id, "title": pod.title, "error": str(error)})
        return None
