# SPDX-License-Identifier: Apache-2.0
"""Numbers about the source that documents give are those of the source."""

import re
import subprocess
import tomllib

import pytest

from tests.style import repo

pytestmark = pytest.mark.style

CHANGES = "images/kernel/changes.toml"
SOURCES = ("stage1", "cri", "images", "scripts")


def _edits() -> tuple[int, int, int]:
    """Changes of Linux, their edits, and the files that these are in."""
    changes = tomllib.loads((repo.ROOT / CHANGES).read_text(encoding="utf-8"))["change"]
    edits = [edit for change in changes for edit in change["edit"]]
    return len(changes), len(edits), len({edit["file"] for edit in edits})


def test_the_changes_of_linux_are_counted() -> None:
    changes, edits, files = _edits()
    for name, words in (
        ("README.md", f"{edits} edits of the guest's Linux"),
        ("docs/admin/threat-model.md", f"changed by {edits} edits in {files} files"),
        ("docs/design/kernel.md", f"has {changes} changes, of {edits} edits in {files} files"),
    ):
        text = " ".join((repo.ROOT / name).read_text(encoding="utf-8").split())
        assert words in text, f"{name}: {words}"


def test_the_lines_of_source_are_counted() -> None:
    listed = subprocess.run(
        ["git", "ls-files", *SOURCES], cwd=repo.ROOT, stdout=subprocess.PIPE, text=True, check=True
    ).stdout.split()
    paths = [repo.ROOT / name for name in listed if re.search(r"\.(py|c|h)$|^scripts/[^.]*$|^images/build$", name)]
    lines = sum(len(path.read_bytes().splitlines()) for path in paths if path.exists())
    text = " ".join((repo.ROOT / "README.md").read_text(encoding="utf-8").split())
    match = re.search(r"some (\d\d) 000 lines of Python and C", text)
    assert match and abs(int(match[1]) * 1000 - lines) <= 5000, lines
