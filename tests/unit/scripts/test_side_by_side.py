# SPDX-License-Identifier: Apache-2.0
"""Files of tests side by side: the longest first, and what waits in processes of its own."""

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.fakes import durations
from tests.fakes.lanes import COMPUTE, Lanes
from tests.fakes.run_order import LONGEST, WAITING, rank

TESTS = Path(__file__).parents[2]


def test_each_file_is_there_and_named_once() -> None:
    names = WAITING + LONGEST
    assert sorted(set(names)) == sorted(names)
    assert [name for name in names if not (TESTS / f"{name}.py").exists()] == []


def test_the_longest_come_first() -> None:
    assert rank(LONGEST[0]) == rank(WAITING[0]) == 0
    assert rank(LONGEST[1]) < rank(LONGEST[-1]) < rank("unit/test_of_a_second")


class Worker:
    """What a scheduler knows of a process of pytest-xdist."""

    shutting_down = False

    def __init__(self, number: int) -> None:
        self.gateway = SimpleNamespace(id=f"gw{number}")
        self.run: list[int] = []

    def send_runtest_some(self, indices: list[int]) -> None:
        self.run += indices

    def shutdown(self) -> None:
        self.shutting_down = True


def test_what_waits_has_processes_of_its_own_until_it_is_done() -> None:
    busy = [f"tests/unit/test_{name}.py::test_{number}" for name in "abc" for number in range(3)]
    waiting = [f"tests/{WAITING[0]}.py::test_{number}" for number in range(3)]
    options: Any = SimpleNamespace(
        getvalue=lambda _: [f"{COMPUTE + 1}*popen"], option=SimpleNamespace(loadscopereorder=False)
    )
    scheduler: Any = Lanes(options)
    workers = [Worker(number) for number in range(scheduler.numnodes)]
    for worker in workers:
        scheduler.add_node(worker)
        scheduler.add_node_collection(worker, [*busy, *waiting])
    scheduler.schedule()
    assert [worker.run for worker in workers] == [[0, 1, 2], [3, 4, 5], [9, 10, 11]]
    scheduler.mark_test_complete(workers[2], 9)
    assert workers[2].run == [9, 10, 11, 6, 7, 8]


def _report(file: str, start: float, stop: float, worker: str) -> pytest.TestReport:
    more = {"start": start, "stop": stop, "worker_id": worker, "processor_s": 1.5}
    given = pytest.TestReport(f"{file}::test_it", ("", 0, ""), {}, "passed", None, "call", (), stop - start, **more)
    kept = pytest.TestReport._from_json(given._to_json())  # as between two processes
    assert isinstance(kept, pytest.TestReport)
    return kept


def test_slow_files_are_listed_with_those_missing_in_run_order_and_the_end_of_each_process() -> None:
    listed = f"tests/{LONGEST[0]}.py"
    reports = [
        _report(listed, 100, 130, "gw0"),
        _report(listed, 130, 140, "gw0"),
        _report("tests/cri/test_new.py", 101, 122, "gw1"),
        _report("tests/cri/test_short.py", 122, 123, "gw1"),
    ]
    (title, files), (_, ends) = durations.sections({"passed": reports[:1], "": [*reports[1:], object()]})
    assert str(durations.LONG_S) in title
    assert [line.split() for line in files[:1]] == [["40.0", "s", "3.0", "s", listed]]
    assert files[1:] == [f"   21.0 s     1.5 s tests/cri/test_new.py, {durations.UNLISTED}"]
    assert [end.partition(" s of it")[0] for end in ends] == [
        "gw0 ended after 40.0 s, 40.0",
        "gw1 ended after 23.0 s, 22.0",
    ]


def test_processor_time_is_reported_once() -> None:
    durations.spent_s()
    until_s = time.process_time() + 0.05
    while time.process_time() < until_s:
        pass
    assert durations.spent_s() >= 0.03 and durations.spent_s() < 0.03
