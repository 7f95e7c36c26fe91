# SPDX-License-Identifier: Apache-2.0
"""`clearpod check`: whether this host can run pods. One line for each requirement, and how to fix what is wrong.

Facts come from `check_facts`, results from `check_items`; here they are put together and printed. Changes nothing.
"""

import argparse
import json

from cri.cli.check_facts import gather
from cri.cli.check_items import FAIL, Item, evaluate
from cri.cli.parser import Parser

EXAMPLES = (
    ("sudo clearpod check", "a line for each requirement of pods"),
    ("sudo clearpod check --json | jq '.[] | select(.status == \"fail\")'", "for programs"),
)


def add_arguments(parser: Parser) -> None:
    """The options of `clearpod check`."""
    parser.add_argument("--json", action="store_true", help="print a list of {name, status, detail, remedy}")
    parser.take_config()


def main(args: argparse.Namespace) -> int:
    """Print the results; 1 when something that pods need is missing, else 0."""
    items = evaluate(gather(args.config))
    print(json.dumps([item._asdict() for item in items], indent=1) if args.json else text(items))
    return 1 if any(item.status == FAIL for item in items) else 0


def text(items: list[Item]) -> str:
    """One line for each: status, name, what is, and what to do about it."""
    width = max(len(item.name) for item in items)
    return "\n".join(
        f"{item.status:<4}  {item.name:<{width}}  {item.detail}" + (f"; {item.remedy}" if item.remedy else "")
        for item in items
    )
