# SPDX-License-Identifier: Apache-2.0
"""Changes of single lines in somebody else's source, each with its reason. Used by images/kernel/build.py.

Not patches: a line is looked up by its text, so that a newer version of the source needs no new line numbers, and one
that no longer holds the line stops the build.
"""

import tomllib
from pathlib import Path
from typing import NamedTuple

from lib.cache import BuildFailed


class Change(NamedTuple):
    """`old`, found once in `file`, becomes `new`."""

    file: str
    old: str
    new: str
    why: str


def read(path: Path) -> list[Change]:
    """The changes of a TOML file with [[change]] tables."""
    with open(path, "rb") as file:
        return [Change(**table) for table in tomllib.load(file)["change"]]


def apply(tree: Path, changes: list[Change]) -> None:
    """Change the files below `tree`. Raises BuildFailed when a line is not there exactly once."""
    for change in changes:
        path = tree / change.file
        text = path.read_text() if path.is_file() else ""
        if (count := text.count(change.old)) != 1:
            raise BuildFailed(
                f"{change.file} has {count} times, not once, the line {change.old!r}; "
                "the kernel's source has changed; correct images/kernel/changes.toml"
            )
        path.write_text(text.replace(change.old, change.new))
