# SPDX-License-Identifier: Apache-2.0
"""The decisions of docs/decisions: number, title and status of each, which tests check.

A record begins with `# NUMBER TITLE`, an empty line and `Status: accepted`, or `superseded by` with a link.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

PLACE = Path(__file__).parents[2] / "docs/decisions"
_LINKS = r"\[\d{4}\]\([\w.-]+\)(, \[\d{4}\]\([\w.-]+\))*"
_STATUS = re.compile(f"accepted|superseded by {_LINKS}|accepted, amended by {_LINKS}")
_HEAD = re.compile(r"# (\d{4}):? ([^\n]+)\n\nStatus: ([^\n]+)\n\n")


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
