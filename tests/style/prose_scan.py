# SPDX-License-Identifier: Apache-2.0
"""Finds the texts of errors that a test asserts, and counts their words.

Used by test_assertions.py only. Reads files; never imports a test.
"""

import ast
import errno
import os
import re
from collections.abc import Iterator
from pathlib import Path

from tests.style.py_scan import Def, tree

# What the system says is no prose of ours, and neither are values: what stands in quotes or lists, is in capitals
# (PATH, ADD), or has a digit, dot, slash, dash or underscore in it.
SYSTEM = re.compile("|".join([*(re.escape(os.strerror(number)) for number in errno.errorcode), "No such file"]))
QUOTED = re.compile(r"'[^' ]*'|`[^`]*`|\"[^\"]*\"")
LIST = re.compile(r"\b[\w-]+(?:, [\w-]+)+\b|\b\w+ or \w+\b")
WORD = re.compile(r"(?<![\w/.\-={'])[A-Za-z]*[a-z][a-z]+(?:'[a-z]+)?(?![\w/\-={}(]|\.\w)")
# Where the text of an error is: str(caught.value), call.details(), an error's own words.
TEXTS = re.compile(r"\bstr\((?:\w+\.value|error|failure)\)|\.details\(\)|\.(?:err|stderr)\b|\b(?:sentence|warnings)\b")


def words(pattern: str) -> int:
    """How many plain words a text or pattern has; of alternatives, the longest one's."""
    own = LIST.sub("", QUOTED.sub("''", SYSTEM.sub("", pattern.replace("\\", ""))))
    return max(len(WORD.findall(part)) for part in own.split("|"))


def _text(node: ast.AST) -> str | None:
    """The text of a string, an f-string (its values are left out) or re.escape(of one)."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else "''" for part in node.values)
    if isinstance(node, ast.Call) and ast.unparse(node.func) == "re.escape":
        return _text(node.args[0])
    return None


def _is_about_texts(node: ast.AST) -> bool:
    return (isinstance(node, ast.keyword) and node.arg == "match") or (
        isinstance(node, ast.Compare) and TEXTS.search(ast.unparse(node)) is not None
    )


def _is_asserted(name: str, function: Def) -> bool:
    """Tell whether a function compares its argument `name` with the text of an error."""
    about = (node for node in ast.walk(function) if _is_about_texts(node))
    return any(isinstance(part, ast.Name) and part.id == name for node in about for part in ast.walk(node))


def _rows(node: ast.AST, module: ast.Module) -> list[ast.expr]:
    """The rows of a table that stands in a decorator or in a constant of the module."""
    if isinstance(node, ast.Name):
        named = [
            line.value
            for line in module.body
            if isinstance(line, ast.Assign | ast.AnnAssign) and line.value is not None and node.id in ast.unparse(line)
        ]
        node = named[0] if named else node
    return node.elts if isinstance(node, ast.List | ast.Tuple) else []


def _tables(function: Def, module: ast.Module) -> Iterator[tuple[int, str]]:
    """The texts in columns of a function's tables that it compares with an error's."""
    for table in function.decorator_list:
        if not (isinstance(table, ast.Call) and ast.unparse(table.func).endswith("parametrize")):
            continue
        names = table.args[0]
        listed = _text(names).split(",") if _text(names) else [_text(part) for part in getattr(names, "elts", [])]
        for column, name in enumerate(listed):
            if name and _is_asserted(name.strip(), function):
                for row in _rows(table.args[1], module):
                    cell = row.args if isinstance(row, ast.Call) else getattr(row, "elts", [row])
                    text = _text(cell[column]) if column < len(cell) else None
                    if text:
                        yield cell[column].lineno, text


def asserted(path: Path) -> Iterator[tuple[int, str]]:
    """What a file asserts about the text of errors: line and text."""
    module = tree(path)
    for node in ast.walk(module):
        if isinstance(node, Def):
            yield from _tables(node, module)
        elif isinstance(node, ast.keyword | ast.Compare):
            parts = [node.value] if isinstance(node, ast.keyword) else [node.left, *node.comparators]
            texts = [(part.lineno, text) for part in parts if (text := _text(part))]
            yield from texts if texts and _is_about_texts(node) else ()
