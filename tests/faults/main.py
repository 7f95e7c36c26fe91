# SPDX-License-Identifier: Apache-2.0
"""`scripts/faults`: each step of each operation times what can happen there. See harness, points, kinds and guest.

`kills`: the daemon, VMMs and programs die, with real VMs. `saves`: the same where guests are saved and loaded.
`templates`: and where templates of booted guests are made and used. `host`: what the host does to the daemon, instant
guests. `guest`: the agent's helpers and crun die in a real guest.
"""

import argparse
import asyncio
import contextlib
import json
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tests.fakes import places
from tests.faults import guest
from tests.faults.harness import Harness, Outcome, victims
from tests.faults.host_faults import HostFaults
from tests.faults.instant import InstantNode
from tests.faults.kinds import KINDS
from tests.faults.operations import OPERATIONS, Operation
from tests.faults.saves import SAVES
from tests.faults.templates import CONFIGURED, TEMPLATES
from tests.soak.main import GUEST
from tests.soak.node import Node
from tests.vm.agent_machine import Machine

PARTS = ("kills", "saves", "templates", "host", "guest")


class Selection(NamedTuple):
    """Which cases: of the operations `only`, if any, each `every`-th; `say` each as it ends."""

    only: Sequence[str] = ()
    every: int = 1
    say: bool = False

    def chosen(self, cases: list[tuple[Any, str]]) -> list[tuple[Any, str]]:
        """Each `every`-th, and at least one, from the middle."""
        return cases[min(self.every, len(cases)) // 2 :: self.every]

    def shown(self, one: Outcome) -> Outcome:
        """The same, printed with `say`."""
        if self.say:
            print(_line(one), file=sys.stderr, flush=True)
        return one


class Report(NamedTuple):
    """`points` are those of each operation, in order."""

    points: dict[str, list[str]]
    outcomes: list[Outcome]

    def figures(self) -> dict[str, int]:
        """What is counted. Cases whose point was not reached again are none."""
        hit = [one for one in self.outcomes if not one.missed]
        return {
            "cases": len(hit),
            "lost": sum(one.lost for one in self.outcomes),
            "leaked": len({name for one in self.outcomes for name in one.leaked}),
            "neighbours_hurt": sum(bool(one.hurt) for one in self.outcomes),
            "failed": sum(bool(one.wrong) for one in self.outcomes),
            "missed": len(self.outcomes) - len(hit),
            "points": sum(map(len, self.points.values())),
        }

    def bad(self) -> list[Outcome]:
        """Those that should not be."""
        return [one for one in self.outcomes if one.lost or one.leaked or one.hurt or one.wrong]


def faults(point: str) -> tuple[str, ...]:
    """What the host can do to the daemon there."""
    return tuple(kind.name for kind in KINDS if kind.fits(point))


async def matrix(
    make: Callable[[], Harness],
    at: Callable[[str], Sequence[str]],
    *,
    selection: Selection,
    all_of: Sequence[Operation] = OPERATIONS,
) -> Report:
    """At each point of the operations, one after the other, what `at` says that can happen there."""
    harness, outcomes = make(), list[Outcome]()
    operations = [operation for operation in all_of if not selection.only or operation.name in selection.only]
    await harness.open()
    result = await harness.note(operations)
    for operation in operations:
        cases = [(point, what) for point in result[operation.name] for what in at(point)]
        for point, what in selection.chosen(cases):
            outcomes.append(selection.shown(await harness.case(operation, point, what)))
    await harness.close()
    return Report(result, outcomes)


def _line(one: Outcome) -> str:
    output = [f"lost {one.lost}"] if one.lost else []
    output += [f"leaked {', '.join(one.leaked)}"] if one.leaked else []
    output += [f"neighbour: {one.hurt}"] if one.hurt else []
    output += [one.wrong] if one.wrong else []
    return f"{one.name}: {'; '.join(output) or ('missed' if one.missed else 'ok')}"


def kills(
    guest_dir: Path, selection: Selection, *, all_of: Sequence[Operation] = OPERATIONS, configured: str = ""
) -> Report:
    """Deaths, on a new node."""
    with _root() as root, Node(root, guest_dir, keeps_registry=True, more=configured) as node:
        work = matrix(lambda: Harness(node), victims, selection=selection, all_of=all_of)
        return _kept(node, asyncio.run(work))


def saves(guest_dir: Path, selection: Selection) -> Report:
    """Deaths while guests are saved and loaded, on a new node."""
    return kills(guest_dir, selection, all_of=SAVES)


def of_templates(guest_dir: Path, selection: Selection) -> Report:
    """Deaths while templates of booted guests are made and used, on a new node."""
    return kills(guest_dir, selection, all_of=TEMPLATES, configured=CONFIGURED)


def host(guest_dir: Path, selection: Selection) -> Report:
    """What is no death, on a new node with instant guests."""
    del guest_dir
    with _root() as root, InstantNode(root) as node:
        return _kept(node, asyncio.run(matrix(lambda: HostFaults(node), faults, selection=selection)))


def in_guest(guest_dir: Path, selection: Selection) -> Report:
    """Deaths in a new guest; it takes the guest's files where the tests of the agent do."""
    del guest_dir
    with _root() as root:
        machine = Machine(root)
        try:
            return _in_guest(guest.Guest(machine), selection)
        finally:
            machine.close()


def _in_guest(made: guest.Guest, selection: Selection) -> Report:
    points, outcomes = dict[str, list[str]](), list[Outcome]()
    for what in made.operations:
        if selection.only and what not in selection.only:
            continue
        steps = {victim: made.steps(what, victim) for victim in guest.VICTIMS}
        points[what] = [step for result in steps.values() for step in result]
        cases = [(number, victim) for victim, result in steps.items() for number in range(1, len(result) + 1)]
        for number, victim in selection.chosen(cases):
            outcomes.append(selection.shown(made.case(what, victim, number)))
    return Report(points, outcomes)


_RUNS: dict[str, Callable[[Path, Selection], Report]] = {
    "kills": kills,
    "saves": saves,
    "templates": of_templates,
    "host": host,
    "guest": in_guest,
}


@contextlib.contextmanager
def _root() -> Iterator[Path]:
    with places.short_directory() as root:
        yield Path(root)


def _kept(node: Node, report: Report) -> Report:
    if report.bad():
        Path("build/results").mkdir(parents=True, exist_ok=True)
        Path("build/results/faults.log").write_bytes((node.root / "serve.log").read_bytes())
    return report


def run(guest_dir: Path, *parts: str, selection: Selection) -> Report:
    """These parts, one after the other; each must leave the host as it was."""
    reports = {part: _RUNS[part](guest_dir, selection) for part in parts}
    points = {f"{part}: {name}": result for part, one in reports.items() for name, result in one.points.items()}
    return Report(points, [outcome for one in reports.values() for outcome in one.outcomes])


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/faults", description="A fault at every step of every operation.")
    parser.add_argument("--json", action="store_true", help="the figures as one JSON object")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="only each N-th case")
    parser.add_argument("--part", action="append", default=[], choices=PARTS, help="only this part")
    parser.add_argument("--only", action="append", default=[], metavar="OPERATION", help="only this operation")
    parser.add_argument("--points", action="store_true", help="list the points too")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that nothing stays behind
    report = run(GUEST, *(args.part or PARTS), selection=Selection(args.only, args.every, say=True))
    if args.points:
        print("\n".join(f"{name}: {point}" for name, result in report.points.items() for point in result))
    figures = report.figures()
    print(json.dumps(figures) if args.json else "\n".join(f"{key:16} {value}" for key, value in figures.items()))
    return 1 if report.bad() else 0


if __name__ == "__main__":
    sys.exit(main())
