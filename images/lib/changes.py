# SPDX-License-Identifier: Apache-2.0
"""Changes of somebody else's source, each with its reason. Used by images/kernel/build.py.

Not patches: an edit looks its text up, so a newer version of the source needs no new line numbers. A change is applied
whole or not at all. One that is needed for correct results stops the build where it does not apply; the others only
save time or memory, and are skipped there.
"""

import tomllib
from pathlib import Path
from typing import NamedTuple

from lib.cache import BuildFailed


class Edit(NamedTuple):
    """`old`, found exactly once in `file` (relative to the tree), becomes `new`."""

    file: str
    old: str
    new: str


class Change(NamedTuple):
    """Edits that make sense only together. A later one may find what an earlier one made."""

    why: str
    needed: bool
    edit: tuple[Edit, ...]


class Skipped(NamedTuple):
    """A change that was left out, its edit that did not apply, and how often that one's text is in the file."""

    change: Change
    edit: Edit
    count: int

    def __str__(self) -> str:
        line = next((line.strip() for line in self.edit.old.splitlines() if line.strip()), "")
        return f"{self.edit.file} has {self.count} times, not once, the text that begins with {line!r}"


def read(path: Path) -> list[Change]:
    """The changes of a TOML file with [[change]] tables, which have [[change.edit]] tables."""
    with open(path, "rb") as file:
        tables = tomllib.load(file).get("change", [])
    return [Change(**{**table, "edit": tuple(Edit(**edit) for edit in table["edit"])}) for table in tables]


def apply(tree: Path, changes: list[Change]) -> list[Skipped]:
    """Change files below `tree` and return what was skipped. Raises BuildFailed when a needed change does not apply."""
    skipped = []
    for change in changes:
        texts: dict[str, str] = {}
        for edit in change.edit:
            path = tree / edit.file
            text = texts.get(edit.file, path.read_text() if path.is_file() else "")
            if (count := text.count(edit.old)) != 1:
                skipped.append(Skipped(change, edit, count))
                break
            texts[edit.file] = text.replace(edit.old, edit.new)
        else:
            for name, text in texts.items():
                (tree / name).write_text(text)
            continue
        if change.needed:
            raise BuildFailed(
                f"{skipped[-1]}; this change is needed for correct results; the kernel's source has changed: "
                "correct images/kernel/changes.toml"
            )
    return skipped
