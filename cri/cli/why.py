# SPDX-License-Identifier: Apache-2.0
"""`clearpod why`: the history of a pod as text, from the daemon's records; also of a pod that never started."""

import argparse
import json
import textwrap
import time

from cri.cli import shown, story
from cri.cli.daemon import connect
from cri.cli.parser import Parser
from cri.cli.record import Record, find

EXAMPLES = (
    ("clearpod why default/web", "what happened to the pod web"),
    ("clearpod why 1f3c", "the same for the pod whose id begins so"),
)
WIDE, LEAST = 120, 20
MOST_OLDER = 5


def add_arguments(parser: Parser) -> None:
    """The options of `clearpod why`."""
    parser.take_pod()
    parser.add_argument("--json", action="store_true", help="one object, for programs")
    parser.take_config()


def main(args: argparse.Namespace) -> int:
    """Print why the pod is in its state. Raises NotFound, BadRequest."""
    with connect(args.config) as daemon:
        record = find(daemon, args.pod)
    if args.json:
        shown.write(json.dumps(as_json(record), indent=2))
    else:
        shown.write(text(record, now_s=time.time(), columns=shown.width()))
    return 0


def as_json(record: Record) -> dict[str, object]:
    """The record with its verdict, as an object."""
    verdict = story.verdict(record)
    events = [one._asdict() for one in record.events]
    return {"verdict": verdict.sentence, "advice": verdict.advice, **record._asdict(), "events": events}


def text(record: Record, *, now_s: float, columns: int = 0) -> str:
    """The output, wrapped to the terminal's width."""
    verdict = story.verdict(record)
    name = f"pod {record.title}" + (f" ({record.id[: shown.ID_CHARS]})" if record.id else "")
    state = {"failed": "did not start"}.get(record.state, f"is {record.state}")
    parts = [f"{name} {state}.", f"In short: {verdict.sentence}."]
    if verdict.advice:
        parts.append(f"What to do: {verdict.advice}.")
    if record.older:
        ids = ", ".join(one[: shown.ID_CHARS] for one in record.older[:MOST_OLDER])
        parts.append(f"Other pods of this name: {ids}; `clearpod why ID` explains each.")
    if record.failed:
        parts.append(f"Before: {record.failed}.")
    blocks = [shown.printable(part) for part in parts]
    if happened := story.lines(record, now_s):
        blocks += ["", "What happened:", *(f"  {shown.printable(line)}" for line in happened)]
    if record.console:
        blocks += ["", "The end of the guest's console:", *(f"  {shown.printable(line)}" for line in record.console)]
    return "\n".join(line for block in blocks for line in _wrapped(block, columns))


def _wrapped(line: str, columns: int) -> list[str]:
    wide = max(min(columns or WIDE, WIDE), LEAST)
    indent = " " * (len(line) - len(line.lstrip()))
    return textwrap.wrap(line, wide, subsequent_indent=f"{indent}    ", replace_whitespace=False) or [""]
