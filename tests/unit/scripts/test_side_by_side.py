# SPDX-License-Identifier: Apache-2.0
"""Files of tests side by side: the longest first, and what waits in processes of its own."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

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
