# SPDX-License-Identifier: Apache-2.0
"""What a PromQL expression selects: enough of the language to hold a dashboard's queries to a real page of metrics.

It knows names, matchers and labels to group by; it computes nothing, and refuses what it can't read.
"""

import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

_TOKEN = re.compile(r'\s*("(?:[^"\\]|\\.)*"|\[[^]]*\]|[A-Za-z_:][\w:]*|\d[\w.]*|=~|!~|!=|==|>=|<=|[-+*/%^(){},=<>])')
_LISTS = {"by", "without", "on", "ignoring", "group_left", "group_right"}
_AFTER_FUNCTIONS = {"(", "by", "without"}
_KEYWORDS = {"and", "or", "unless", "offset", "bool", "inf", "nan"}
_TESTS = {
    "=": lambda text, value: text == value,
    "!=": lambda text, value: text != value,
    "=~": lambda text, value: re.fullmatch(value, text) is not None,
    "!~": lambda text, value: re.fullmatch(value, text) is None,
}


class Selector(NamedTuple):
    """A metric's name and its matchers: label, operator, value."""

    name: str
    matchers: tuple[tuple[str, str, str], ...]

    def takes(self, name: str, labels: Mapping[str, str]) -> bool:
        """Whether it selects this sample. One that lacks a label has it empty, as in Prometheus."""
        return name == self.name and all(_TESTS[op](labels.get(label, ""), value) for label, op, value in self.matchers)


class Query(NamedTuple):
    """What an expression selects, and by which labels it groups."""

    selectors: tuple[Selector, ...]
    groups: frozenset[str]


def tokens(text: str) -> list[str]:
    """Raises ValueError for what is not PromQL."""
    result, at = [], 0
    while text[at:].strip():
        match = _TOKEN.match(text, at)
        if match is None:
            raise ValueError(f"{text[at:]!r} can't be read")
        result.append(match[1])
        at = match.end()
    return result


def parse(text: str) -> Query:
    """Raises ValueError for what is not PromQL, as far as it is known here."""
    parts, selectors, groups = tokens(text), list[Selector](), set[str]()
    if parts.count("(") != parts.count(")") or parts.count("{") != parts.count("}"):
        raise ValueError(f"{text!r} has brackets that do not match")
    at = 0
    while at < len(parts):
        word, following = parts[at], parts[at + 1] if at + 1 < len(parts) else ""
        if word in _LISTS and following == "(":
            end = parts.index(")", at)
            groups |= set(parts[at + 2 : end]) - {","}
            at = end
        elif re.match(r"[A-Za-z_:]", word) and following not in _AFTER_FUNCTIONS and word not in _KEYWORDS:
            end = parts.index("}", at) if following == "{" else at
            selectors.append(Selector(word, tuple(_matchers(parts[at + 2 : end]))))
            at = end
        at += 1
    if not selectors:
        raise ValueError(f"{text!r} selects nothing")
    return Query(tuple(selectors), frozenset(groups))


def _matchers(parts: list[str]) -> Iterator[tuple[str, str, str]]:
    for first in range(0, len(parts), 4):
        label, operator, value, rest = [*parts[first : first + 4], "", "", "", ""][:4]
        if operator not in _TESTS or not value.startswith('"') or rest not in ("", ","):
            raise ValueError(f"{' '.join(parts)!r} is no list of matchers")
        yield label, operator, value[1:-1]
