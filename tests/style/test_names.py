# SPDX-License-Identifier: Apache-2.0
"""Names that only some files may know, and words that are no names here.

A driver is asked by its record (stage1/vm/spec.py), never by its name. CONTRIBUTING's glossary has the terms.
"""

import ast
import re
from collections.abc import Iterator

import pytest

from tests.style import py_scan, repo

pytestmark = pytest.mark.style

HYPERVISORS = re.compile(r"kvmtool|lkvm|qemu", re.IGNORECASE)
FORMER = re.compile(
    "(^|_)(ahead|spares?|rehears(e|al)|become|let_go|bury|sweep|remains|leftovers?|debts?|owed|words|reach|session|broker|door"
    "|look|upkeep|carrier|inlet|outlet|parcel|to_the_end|beside|squeeze|attended|way|early|judged?|mend|complain|said|found"
    "|wanted|room|arrow|fallen)(_|$)",
    re.IGNORECASE,
)
"""Words of earlier versions, for which CONTRIBUTING's glossary has terms."""
KEPT = {"found_mac", "image_way", "NOT_FOUND", "Session", "session", "channel_session", "spdy_session"}
"""Names on the disk, on the link, and of gRPC and Kubernetes: CONTRIBUTING has the reasons."""
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


def _names(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Names that the file defines: functions, classes, arguments, variables and attributes, with their lines."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.lineno, node.name
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.attr


def test_names_are_terms_of_the_glossary_and_not_words_of_earlier_versions() -> None:
    violations = [
        f"{repo.where(path, line)}: {name}"
        for path in repo.of("python")
        if str(path.relative_to(repo.ROOT)).startswith(("stage1/", "cri/"))
        for line, name in (*_names(py_scan.tree(path)), (1, path.stem))
        if FORMER.search(name) and name not in KEPT
    ]
    repo.report(violations, "a name uses the term of CONTRIBUTING's glossary")


def test_the_rule_finds_words_and_not_parts_of_them() -> None:
    text = "class Wanted: ...\ndef look(early_x, reached): self.way = foundation = 1; let_go = away = 2\n"
    result = [name for _, name in _names(ast.parse(text)) if FORMER.search(name)]
    assert sorted(result) == ["Wanted", "early_x", "let_go", "look", "way"]
