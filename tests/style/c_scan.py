# SPDX-License-Identifier: Apache-2.0
"""Finds the functions of a C file: name, first and last line, number of parameters; what it declares and includes.

A scanner of braces, not a parser: comments, strings and preprocessor lines are blanked, then a brace at depth
zero that follows a closing parenthesis opens a function. Enough for code that is indented like ours.
"""

import re
from typing import NamedTuple

_BLANKED = re.compile(
    r'/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'|^[ \t]*#(?:[^\n\\]|\\.|\\\n)*',
    re.DOTALL | re.MULTILINE,
)
_HEAD = re.compile(r"(\w+)\s*\(((?:[^()]|\([^()]*\))*)\)\s*(?:__attribute__\s*\(\(.*?\)\)\s*)?\Z", re.DOTALL)
_INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]+"([^"]+)"', re.MULTILINE)


class Function(NamedTuple):
    """A function definition; `lines` counts from the line of its name to its closing brace."""

    name: str
    line: int
    lines: int
    parameters: int


def _blank(match: re.Match[str]) -> str:
    return re.sub(r"[^\n]", " ", match[0])


def _count(parameters: str) -> int:
    flat = re.sub(r"\([^()]*\)", "", parameters).strip()
    return 0 if flat in ("", "void") else flat.count(",") + 1


def _blocks(text: str) -> list[tuple[int, int, int]]:
    """Top-level brace pairs: where the text before them starts, the opening and the closing brace."""
    result, depth, start, opened = [], 0, 0, 0
    for position, char in enumerate(text):
        if char == "{":
            opened = position if depth == 0 else opened
            depth += 1
        elif char == "}":
            depth -= 1
            if depth == 0:
                result.append((start, opened, position))
                start = position + 1
        elif char == ";" and depth == 0:
            start = position + 1
    return result


def functions(source: str) -> list[Function]:
    """List the function definitions of a C source text, in order."""
    text = _BLANKED.sub(_blank, source)
    result = []
    for start, opened, closed in _blocks(text):
        head = _HEAD.search(text, start, opened)
        if head and "=" not in text[start : head.start()]:
            line = text.count("\n", 0, head.start()) + 1
            lines = text.count("\n", 0, closed) + 2 - line
            result.append(Function(head[1], line, lines, _count(head[2])))
    return result


def declarations(source: str) -> list[str]:
    """List the functions that a header declares and leaves to a source, in order; no types, no variables."""
    text = _BLANKED.sub(_blank, source)
    for _, opened, closed in reversed(_blocks(text)):
        text = text[:opened] + ";" + text[closed + 1 :]
    heads = (_HEAD.search(statement.rstrip()) for statement in text.split(";") if "typedef" not in statement)
    defined = {function.name for function in functions(source)}
    return [head[1] for head in heads if head and head[1] not in defined]


def includes(source: str) -> list[str]:
    """List the files that a C file includes by a name in quotes, in order."""
    return _INCLUDE.findall(source)
