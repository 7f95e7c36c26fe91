# SPDX-License-Identifier: Apache-2.0
"""The list of what every change must pass names tests that exist."""

import ast

import pytest

from tests import promises
from tests.style import py_scan
from tests.style.repo import ROOT


@pytest.mark.parametrize("word", sorted(promises.TESTS))
def test_each_promise_is_held_by_a_test_that_exists(word: str) -> None:
    file, _, name = word.partition("::")
    tree = py_scan.tree(ROOT / "tests" / f"{file}.py")
    tests = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
    assert name in tests or (name == "*" and any(test.startswith("test_") for test in tests))


def test_a_file_or_a_test_is_chosen_by_its_name() -> None:
    assert promises.holds("vm/test_stock", "test_anything")
    assert promises.holds("rkt/test_pods", "test_a_terminal_of_the_callers")
    assert not promises.holds("rkt/test_pods", "test_a_terminal")
