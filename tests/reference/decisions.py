# SPDX-License-Identifier: Apache-2.0
"""The index of docs/decisions, from the heading and the status line of each."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tests.reference.table import table

PLACE = Path(__file__).parents[2] / "docs/decisions"
_LINKS = r"\[\d{4}\]\([\w.-]+\)(, \[\d{4}\]\([\w.-]+\))*"
_STATUS = re.compile(f"accepted|superseded by {_LINKS}|accepted, amended by {_LINKS}")
_HEAD = re.compile(r"# (\d{4}):? ([^\n]+)\n\nStatus: ([^\n]+)\n\n")
_INTRO = """# Decisions

The few decisions that shape everything else: one file each, what was decided, why, what was rejected, what it costs.
[design/](../README.md#for-developers) explains everything else by subject, and changes with the code.
The first line is `# NUMBER TITLE`, the third `Status: accepted`, or `Status: superseded by` with a link.

<!-- The table is made by scripts/gen-reference. -->

"""


class Decision(NamedTuple):
    """One file."""

    file: str
    number: str
    title: str
    status: str


def decisions() -> Iterator[Decision]:
    """All, by number. One that is not in form has the status "?"."""
    for path in sorted(PLACE.glob("[0-9]*.md")):
        result = _HEAD.match(path.read_text(encoding="utf-8"))
        well_formed = result and path.name.startswith(result[1]) and _STATUS.fullmatch(result[3])
        yield Decision(path.name, *(result.groups() if result and well_formed else (path.name[:4], path.stem, "?")))


def index() -> str:
    """docs/decisions/README.md."""
    rows = ((f"[{one.number}]({one.file})", one.title, one.status) for one in decisions())
    return _INTRO + table(("number", "decision", "status"), rows) + "\n"
