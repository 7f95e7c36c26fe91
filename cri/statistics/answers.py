# SPDX-License-Identifier: Apache-2.0
"""Answers about many pods, of which none can spoil the others: by numbers that can't be translated, by its size, or by
the time that it takes. Called by the RPCs that list stats and metrics.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from typing import Protocol, TypeVar

from cri.statistics.sample import Sample
from cri.statistics.samples import AnyPod

log = logging.getLogger("clearpod.stats")

MOST_BYTES = 15 << 20
"""Of a list that is one message, which must stay below 16 MiB."""
SLICE_S = 0.002
"""The time after which the event loop does other work."""


class Sized(Protocol):
    """A message."""

    def ByteSize(self) -> int: ...


Message = TypeVar("Message", bound=Sized)


async def each(
    samples: Iterable[tuple[AnyPod, Sample]], make: Callable[[AnyPod, Sample], list[Message]]
) -> list[Message]:
    """The results of `make` for each pod, in order; pods whose statistics it can't translate are omitted."""
    messages: list[Message] = []
    begun_s = time.monotonic()
    for pod, sample in samples:
        try:
            messages += make(pod, sample)
        except Exception as error:  # noqa: BLE001 - whatever it is: the numbers are a guest's, and others wait
            log.error("stats.untranslated", extra={"pod": pod.id, "title": pod.title, "error": str(error)})
        if time.monotonic() - begun_s > SLICE_S:
            await asyncio.sleep(0)
            begun_s = time.monotonic()
    return messages


def fitting(items: list[Message], name: Callable[[Message], str], *, most_bytes: int = MOST_BYTES) -> list[Message]:
    """The items that fit into one message, in order; if not all do, the pods that take the most are left out.

    `name` returns the owner of an item. Streamed calls have no such limit.
    """
    sizes: dict[str, int] = {}
    for item in items:
        sizes[name(item)] = sizes.get(name(item), 0) + item.ByteSize() + 8
    left = sum(sizes.values())
    for pod_id in sorted(sizes, key=lambda one: sizes[one], reverse=True):
        if left <= most_bytes:
            break
        log.warning("stats.too_large", extra={"pod": pod_id, "bytes": sizes[pod_id]})
        left -= sizes.pop(pod_id)
    return [item for item in items if name(item) in sizes]
