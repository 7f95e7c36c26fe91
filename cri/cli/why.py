# SPDX-License-Identifier: Apache-2.0
"""`clearpod why`: what happened to a pod, in words, from what the daemon recorded; also of one that never started."""

import argparse
import json
import textwrap
import time

from cri.cli import record, shown, story
from cri.cli.daemon import connect
from cri.cli.parser import Parser
from cri.cli.record import Record

EXAMPLES = (
    ("clearpod why default/web", "what happened to the pod web"),
    ("clearpod why 1f3c", "the same for the pod whose id begins so"),
)
WIDE, LEAST = 120, 20


def add_arguments(parser: Parser) -> None:
    """The options of `clearpod why`."""
    parser.take_pod()
    parser.add_argument("--json", action="store_true", help="one object, for programs")
    parser.take_config()


def main(args: argparse.Namespace) -> int:
    """Tell it. Raises NotFound, BadRequest."""
    with connect(args.config) as daemon:
        found = record.find(daemon, args.pod)
    if args.json:
        shown.say(json.dumps(as_json(found), indent=2))
    else:
        shown.say(text(found, now_s=time.time(), columns=shown.width()))
    return 0


def as_json(found: Record) -> dict[str, object]:
    """The record with its verdict, as an object."""
    said = story.verdict(found)
    events = [one._asdict() for one in found.events]
    return {"verdict": said.sentence, "advice": said.advice, **found._asdict(), "events": events}


def text(found: Record, *, now_s: float, columns: int = 0) -> str:
    """What is printed, in lines that fit."""
    said = story.verdict(found)
    name = f"pod {found.title}" + (f" ({found.id[: shown.ID_CHARS]})" if found.id else "")
    state = {"failed": "did not start"}.get(found.state, f"is {found.state}")
    parts = [f"{name} {state}.", f"In short: {said.sentence}."]
    if said.advice:
        parts.append(f"What to do: {said.advice}.")
    if found.failed:
        parts.append(f"Before: {found.failed}.")
    blocks = [shown.printable(part) for part in parts]
    if happened := story.lines(found, now_s):
        blocks += ["", "What happened:", *(f"  {shown.printable(line)}" for line in happened)]
    if found.console:
        blocks += ["", "The end of the guest's console:", *(f"  {shown.printable(line)}" for line in found.console)]
    return "\n".join(line for block in blocks for line in _wrapped(block, columns))


def _wrapped(line: str, columns: int) -> list[str]:
    wide = max(min(columns or WIDE, WIDE), LEAST)
    indent = " " * (len(line) - len(line.lstrip()))
    return textwrap.wrap(line, wide, subsequent_indent=f"{indent}    ", replace_whitespace=False) or [""]
