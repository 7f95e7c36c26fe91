# SPDX-License-Identifier: Apache-2.0
"""Turns a fuzzer's bytes into JSON documents that are nearly right: a good one with some of its values replaced.

Bytes that are mutated blindly seldom remain JSON, and Python's parser of it can't be instrumented; so a parser behind
it would hardly be reached. Used by `targets`. Pure: the same bytes give the same document.
"""

import copy
import json
from collections.abc import Iterator
from typing import Any

ODD: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**31, 2**63, 2**64, -(2**63), 1e308, -0.5, "", " ", "/", "..", "a" * 300, "\0", "\n",
    "\ud800", "0", "-1", "9" * 5000, "10.0.0.1/33", "::/0", "10.0.0.1", "sha256:" + "0" * 64, "linux", [], [[]], [None],
    {}, [{}], {"": {}}, ["a", 1], {"a": None}, "é\u202e", [0] * 300,
)  # fmt: skip

Path = tuple[str | int, ...]


def variants(data: bytes, *, good: tuple[Any, ...]) -> bytes:
    """JSON made of one of `good`; each following pair of bytes replaces, removes or repeats one value in it.

    An input that begins with a brace is taken as it is.
    """
    if not data or data[:1] in b"{[":
        return data
    document = json.loads(json.dumps(good[data[0] % len(good)]))
    for at in range(1, min(len(data), 33) - 1, 2):
        document = _changed(document, data[at], data[at + 1])
    return json.dumps(document).encode()


def _changed(document: Any, where: int, how: int) -> Any:
    places = list(_places(document, ()))
    if not places:
        return copy.deepcopy(ODD[how % len(ODD)])
    *above, last = places[where % len(places)]
    parent = document
    for step in above:
        parent = parent[step]
    if how < len(ODD):
        parent[last] = copy.deepcopy(ODD[how])
    elif how % 3 == 0:
        del parent[last]
    elif isinstance(parent, list):
        parent.append(copy.deepcopy(parent[last]))
    else:
        parent[str(last) + "x"] = copy.deepcopy(parent[last])
    return document


def _places(value: Any, path: Path) -> Iterator[Path]:
    """Where something can be replaced: every member of every object and list."""
    members = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, member in members:
        yield (*path, key)
        yield from _places(member, (*path, key))
