# SPDX-License-Identifier: Apache-2.0
"""Names that only some files may know. A driver is asked by its record (stage1/vm/hypervisor.py), never by its name."""

import ast
import re
from collections.abc import Iterator

import pytest

from tests.style import py_scan, repo

pytestmark = pytest.mark.style

HYPERVISORS = re.compile(r"kvmtool|lkvm|qemu", re.IGNORECASE)
DRIVERS = {f"stage1/vm/{name}.py" for name in ("kvmtool", "qemu", "hypervisors")}


def _docstrings(tree: ast.Module) -> set[int]:
    """The nodes that are strings for people: of modules, classes and functions, and below a name."""
    return {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}


def _texts(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Identifiers, and strings that are no docstrings, with their lines."""
    silent = _docstrings(tree)
    for node in ast.walk(tree):
        for field in ("id", "attr", "arg", "name", "module", "asname"):
            if isinstance(word := getattr(node, field, None), str):
                yield getattr(node, "lineno", 1), word
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in silent:
            yield node.lineno, node.value


def test_only_a_hypervisors_own_file_knows_its_name() -> None:
    violations = [
        f"{repo.where(path, line)}: {word[:60]!r}"
        for path in repo.of("python")
        if (name := str(path.relative_to(repo.ROOT))).startswith(("stage1/", "cri/")) and name not in DRIVERS
        if HYPERVISORS.search(path.read_text(encoding="utf-8"))
        for line, word in _texts(py_scan.tree(path))
        if HYPERVISORS.search(word)
    ]
    repo.report(violations, "a hypervisor's name stands outside of its driver: ask its record")


def test_the_rule_sees_identifiers_and_strings_and_not_what_is_for_people() -> None:
    text = (
        '"""QEMU."""\nfrom vm import qemu as q\ndef is_kvmtool(lkvm): # kvmtool\n    """QEMU."""\n    return "qemu"\n'
    )
    result = [word for _, word in _texts(ast.parse(text)) if HYPERVISORS.search(word)]
    assert sorted(result) == ["is_kvmtool", "lkvm", "qemu", "qemu"]
