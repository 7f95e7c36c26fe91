# SPDX-License-Identifier: Apache-2.0
"""Durations of tests that ran concurrently, by file and by process. For tests/conftest.py.

It reports which files belong into the lists of `run_order`, and how long each process was without tests.
"""

import itertools
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import pytest

from tests.fakes.run_order import LONGEST, WAITING

LONG_S = 20
"""Files of so many seconds are named."""
UNLISTED = "not in tests/fakes/run_order.py"

_counted = [0.0]


class File(NamedTuple):
    """One file's tests: seconds by the clock, and of processors."""

    name: str
    clock_s: float
    processor_s: float


def spent_s() -> float:
    """Seconds of processors since the last call, of this process and of all that it has started and waited for."""
    before, _counted[0] = _counted[0], sum(os.times()[:4])
    return _counted[0] - before


def sections(stats: Mapping[str, Iterable[Any]]) -> Iterator[tuple[str, list[str]]]:
    """Titles and lines, from the reports that a terminal has."""
    reports = [one for one in itertools.chain.from_iterable(stats.values()) if isinstance(one, pytest.TestReport)]
    yield f"files of {LONG_S} s and more, by the clock and of processors", list(map(_line, _long(reports)))
    yield "processes of tests", _ends(reports)


def _long(reports: Iterable[pytest.TestReport]) -> list[File]:
    files: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
    for report in reports:
        sums = files[report.nodeid.partition("::")[0]]
        sums[0] += report.duration
        sums[1] += getattr(report, "processor_s", 0.0)
    named = [File(name, *sums) for name, sums in files.items() if sums[0] >= LONG_S]
    return sorted(named, key=lambda one: -one.clock_s)


def _line(file: File) -> str:
    is_listed = file.name.removeprefix("tests/").removesuffix(".py") in (*WAITING, *LONGEST)
    return f"{file.clock_s:7.1f} s {file.processor_s:7.1f} s {file.name}{'' if is_listed else f', {UNLISTED}'}"


def _ends(reports: Iterable[pytest.TestReport]) -> list[str]:
    """When each process was through, and how long its tests took together; one that ends early had none left."""
    processes = defaultdict[str, list[pytest.TestReport]](list)
    for report in reports:
        processes[getattr(report, "worker_id", "")].append(report)
    begun = min((one.start for one in reports), default=0.0)
    result = []
    for name, own in sorted(processes.items()):
        last, spent_s = max(own, key=lambda one: one.stop), sum(one.duration for one in own)
        result.append(f"{name} ended after {last.stop - begun:.1f} s, {spent_s:.1f} s of it tests, with {last.nodeid}")
    return result
