# SPDX-License-Identifier: Apache-2.0
"""Finds the functions and classes of a Python file, with what the size and docstring rules ask about them."""

import ast
import gc
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

Def = ast.FunctionDef | ast.AsyncFunctionDef


class Function(NamedTuple):
    """A function; `lines` leaves out decorators and docstring, `positional` leaves out self and cls."""

    name: str
    line: int
    lines: int
    parameters: int
    positional: int


@cache
def tree(path: Path) -> ast.Module:
    """Parse a file once. The tree stays, and the garbage collector never looks at it: each of its rounds would take as
    long as all of these tests.
    """
    gc.disable()
    try:
        return ast.parse(path.read_text(encoding="utf-8"), str(path))
    finally:
        gc.freeze()
        gc.enable()


def is_silent(path: Path) -> bool:
    """Tell whether a file has code but no docstring of its own."""
    return bool(tree(path).body) and ast.get_docstring(tree(path)) is None


def _docstring_lines(node: Def) -> int:
    if ast.get_docstring(node) is None:
        return 0
    first = node.body[0]
    return (first.end_lineno or first.lineno) - first.lineno + 1


def _function(node: Def) -> Function:
    positional = [arg.arg for arg in (*node.args.posonlyargs, *node.args.args)]
    if positional and positional[0] in ("self", "cls"):
        del positional[0]
    total = len(positional) + len(node.args.kwonlyargs) + bool(node.args.vararg) + bool(node.args.kwarg)
    lines = (node.end_lineno or node.lineno) - node.lineno + 1 - _docstring_lines(node)
    return Function(node.name, node.lineno, lines, total, len(positional))


@cache
def functions(path: Path) -> list[Function]:
    """Every function and method of the file, nested ones too."""
    return [_function(node) for node in ast.walk(tree(path)) if isinstance(node, Def)]


def _members(node: Def | ast.ClassDef) -> Iterator[tuple[str, Def]]:
    """Public methods of more than one statement; a method of one statement speaks for itself."""
    for member in node.body if isinstance(node, ast.ClassDef) else ():
        if isinstance(member, Def) and not member.name.startswith("_") and len(member.body) > 1:
            yield f"{node.name}.{member.name}", member


def docstrings(path: Path) -> Iterator[tuple[int, str]]:
    """Docstrings of the file's classes, functions and methods, private ones too: line and text."""
    for node in ast.walk(tree(path)):
        if isinstance(node, Def | ast.ClassDef) and (text := ast.get_docstring(node)):
            yield node.lineno, text


def undocumented(path: Path) -> Iterator[tuple[int, str]]:
    """Public classes, functions and methods of the file that have no docstring: line and name."""
    for node in tree(path).body:
        if isinstance(node, Def | ast.ClassDef) and not node.name.startswith("_"):
            for name, thing in [(node.name, node), *_members(node)]:
                if ast.get_docstring(thing) is None:
                    yield thing.lineno, name
