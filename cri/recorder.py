# SPDX-License-Identifier: Apache-2.0
"""What the daemon counts of its own work while it works: calls, starts of pods, ends. Made by the node, used wherever
something happens that could not be counted afterwards.

`Recorder` does nothing, and is what everybody has unless metrics are wanted. `Counts` adds to numbers, on the event
loop alone: no lock, no I/O, no library. It must not know how the numbers are shown: that is `cri.metrics`.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic
from typing import NamedTuple

from cri.tracing import Tracer

RPCS, RPC_SECONDS = "rpcs", "rpc_seconds"
POD_STARTS, POD_START_SECONDS, PHASE_SECONDS = "pod_starts", "pod_start_seconds", "phase_seconds"
POD_DEATHS, EXITS, LINK_CUTS = "pod_deaths", "exits", "link_cuts"

BOUNDS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""Upper bounds of a histogram's buckets; what is slower is in one more."""

Key = tuple[str, ...]
"""A number's name and the values of its labels."""


class Histogram(NamedTuple):
    """How many values fell into each bucket, and their sum as the only item of a list."""

    buckets: list[int]
    total: list[float]


class Recorder:
    """Counts nothing. With a `tracer`, what is timed is a span as well."""

    tracer = Tracer()

    def count(self, *key: str) -> None:
        """Count one more event with these labels."""

    def observe(self, seconds: float, *key: str) -> None:
        """Put a duration into its bucket."""

    @contextmanager
    def timing(self, *key: str) -> Iterator[None]:
        """`with recorder.timing(...):` observe what the block takes, unless it fails."""
        begun = monotonic()
        with self.tracer.span(key[-1]):
            yield
        self.observe(monotonic() - begun, *key)


class Counts(Recorder):
    """All numbers since the daemon's start. To be used on the event loop only."""

    def __init__(self) -> None:
        self._counted: Counter[Key] = Counter()
        self._observed: dict[Key, Histogram] = {}

    def count(self, *key: str) -> None:
        """One more."""
        self._counted[key] += 1

    def observe(self, seconds: float, *key: str) -> None:
        """One more in its bucket."""
        one = self._observed.get(key)
        if one is None:
            one = self._observed[key] = Histogram([0] * (len(BOUNDS_S) + 1), [0.0])
        one.buckets[bisect_left(BOUNDS_S, seconds)] += 1
        one.total[0] += seconds

    def counted(self, name: str) -> dict[Key, int]:
        """Label values -> number, of all with this name."""
        return {key[1:]: value for key, value in self._counted.items() if key[0] == name}

    def observed(self, name: str) -> dict[Key, Histogram]:
        """Label values -> a copy of the histogram, of all with this name."""
        return {
            key[1:]: Histogram(list(one.buckets), list(one.total))
            for key, one in self._observed.items()
            if key[0] == name
        }
