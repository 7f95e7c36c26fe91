# SPDX-License-Identifier: Apache-2.0
"""Strings that follow an assignment in a source file: what a key or a constant means. Used by the pages.

They are read from the source, so that they cost the running program nothing.
"""

import ast
import itertools
from pathlib import Path
from types import ModuleType


def _of(body: list[ast.stmt]) -> dict[str, str]:
    result = {}
    for statement, after in itertools.pairwise(body):
        if isinstance(statement, ast.AnnAssign):
            target: ast.expr = statement.target
        elif isinstance(statement, ast.Assign) and len(statement.targets) == 1:
            target = statement.targets[0]
        else:
            continue
        if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) and isinstance(target, ast.Name):
            result[target.id] = " ".join(str(after.value.value).split())
    return result


def _tree(module: ModuleType) -> ast.Module:
    return ast.parse(Path(str(module.__file__)).read_text(encoding="utf-8"))


def of_module(module: ModuleType) -> dict[str, str]:
    """The documented constants of a module."""
    return _of(_tree(module).body)


def of_class(module: ModuleType, name: str) -> dict[str, str]:
    """The documented attributes of a class in that module."""
    body = next(node.body for node in _tree(module).body if isinstance(node, ast.ClassDef) and node.name == name)
    return _of(body)


def first_sentence(text: str | None) -> str:
    """The first paragraph of a docstring on one line."""
    return " ".join((text or "").strip().split("\n\n", 1)[0].split())
