# SPDX-License-Identifier: Apache-2.0
"""`scripts/faults`: each step of each operation times who can die there, with real VMs. See harness and points."""

import argparse
import asyncio
import json
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tests.faults.harness import Harness, Outcome, victims
from tests.faults.operations import OPERATIONS, Operation
from tests.soak.main import GUEST
from tests.soak.node import Node


class Report(NamedTuple):
    """`points` are those of each operation, in order; `left` is what stayed when everything was removed."""

    points: dict[str, list[str]]
    outcomes: list[Outcome]
    left: list[str]

    def figures(self) -> dict[str, int]:
        """What is counted. Cases whose point was not reached again are none."""
        hit = [one for one in self.outcomes if not one.missed]
        return {
            "cases": len(hit),
            "lost": sum(one.lost for one in self.outcomes),
            "leaked": len({name for one in self.outcomes for name in one.leaked}) + len(self.left),
            "neighbours_hurt": sum(bool(one.hurt) for one in self.outcomes),
            "failed": sum(bool(one.wrong) for one in self.outcomes),
            "missed": len(self.outcomes) - len(hit),
            "points": sum(map(len, self.points.values())),
        }

    def bad(self) -> list[Outcome]:
        """Those that should not be."""
        return [one for one in self.outcomes if one.lost or one.leaked or one.hurt or one.wrong]


async def matrix(node: Node, *, only: Sequence[str] = (), every: int = 1, say: bool = False) -> Report:
    """Kill at each point of the operations (`only` those), or at each `every`-th."""
    harness, outcomes = Harness(node), list[Outcome]()
    wanted = [operation for operation in OPERATIONS if not only or operation.name in only]
    await harness.open()
    found = await harness.note(wanted)
    for operation in wanted:
        for point, victim in _chosen(found[operation.name], every):
            outcomes.append(await harness.case(operation, point, victim))
            if say:
                print(_line(outcomes[-1]), file=sys.stderr, flush=True)
    await harness.close()
    return Report(found, outcomes, [])


def _chosen(found: list[str], every: int) -> list[tuple[str, str]]:
    """Each `every`-th, and at least one, from the middle."""
    cases = [(point, victim) for point in found for victim in victims(point)]
    return cases[min(every, len(cases)) // 2 :: every]


def _line(one: Outcome) -> str:
    said = [f"lost {one.lost}"] if one.lost else []
    said += [f"leaked {', '.join(one.leaked)}"] if one.leaked else []
    said += [f"neighbour: {one.hurt}"] if one.hurt else []
    said += [one.wrong] if one.wrong else []
    return f"{one.name}: {'; '.join(said) or ('missed' if one.missed else 'ok')}"


def run(*, guest_dir: Path, only: Sequence[str] = (), every: int = 1, say: bool = False) -> Report:
    """On a new node, which must be empty in the end."""
    with (
        tempfile.TemporaryDirectory(prefix="cp", dir="/tmp") as root,
        Node(Path(root), guest_dir, keeps_registry=True) as node,
    ):
        report = asyncio.run(matrix(node, only=only, every=every, say=say))
        if report.bad():
            Path("build/results").mkdir(parents=True, exist_ok=True)
            Path("build/results/faults.log").write_bytes((node.root / "serve.log").read_bytes())
    return report


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/faults", description="Kill at every step of every operation.")
    parser.add_argument("--json", action="store_true", help="the figures as one JSON object")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="only each N-th case")
    parser.add_argument("--only", action="append", default=[], choices=_names(OPERATIONS), help="only this operation")
    parser.add_argument("--points", action="store_true", help="list the points too")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that nothing stays behind
    report = run(guest_dir=GUEST, only=args.only, every=args.every, say=True)
    if args.points:
        print("\n".join(f"{name}: {point}" for name, found in report.points.items() for point in found))
    figures: dict[str, Any] = report.figures()
    print(json.dumps(figures) if args.json else "\n".join(f"{key:16} {value}" for key, value in figures.items()))
    return 1 if report.bad() or report.left else 0


def _names(operations: Sequence[Operation]) -> list[str]:
    return [operation.name for operation in operations]


if __name__ == "__main__":
    sys.exit(main())
