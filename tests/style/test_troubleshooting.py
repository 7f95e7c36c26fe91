# SPDX-License-Identifier: Apache-2.0
"""The errors that docs/admin/troubleshooting.md quotes are those of the code."""

import ast
import re

import pytest

from tests.style import py_scan, repo

pytestmark = pytest.mark.style

PAGE = repo.ROOT / "docs/admin/troubleshooting.md"
SENTENCE = 3
"""A quotation of at least so many words is an error of ours; shorter ones are names and commands."""
COMMANDS = ("clearpod ", "crictl ", "apt ", "systemctl ", "modprobe ", "pgrep ", "journalctl ")


def quoted() -> list[str]:
    """The errors on the page, each without what is different each time."""
    spans = re.findall(r"`([^`]+)`", PAGE.read_text(encoding="utf-8"))
    errors = [one for one in spans if len(one.split()) >= SENTENCE and not one.startswith(COMMANDS)]
    return [part.strip() for one in errors for part in one.split("…") if len(part.split()) >= SENTENCE]


def sentences() -> str:
    """All strings of what ships, one a line; what a string is filled with is left out."""
    trees = [
        py_scan.tree(path) for path in repo.of("python") if path.relative_to(repo.ROOT).parts[0] in ("cri", "stage1")
    ]
    return "\n".join(
        _text(node) for tree in trees for node in ast.walk(tree) if isinstance(node, ast.JoinedStr | ast.Constant)
    )


def _text(node: ast.JoinedStr | ast.Constant) -> str:
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else ""
    return "".join(part.value if isinstance(part, ast.Constant) else "…" for part in node.values)


def test_each_error_that_is_quoted_is_in_the_code() -> None:
    known = sentences()
    assert len(quoted()) > 15
    repo.report([one for one in quoted() if one not in known], "an error in the page on trouble is one that can come")
