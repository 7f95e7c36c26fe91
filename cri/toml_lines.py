# SPDX-License-Identifier: Apache-2.0
"""Finds the line of a key in a TOML text. Pure. Called by `config`, for its errors: the standard library keeps no
positions.
"""

import re


def find_line(text: str, where: tuple[int | str, ...]) -> int:
    """The line, from 1, of the key at the path `where` ("vm", "vcpus" or "registries", 0, "prefix").

    tomllib keeps no positions, so this looks for the key below its table's header; for a key that is missing
    it is the header's line, and 1 when there is no header either.
    """
    table = ".".join(str(part) for part in where[:-1] if isinstance(part, str))
    key, nth = str(where[-1]), next((part for part in where if isinstance(part, int)), 0)
    if isinstance(where[-1], int):
        table, key = ".".join(p for p in where[:-2] if isinstance(p, str)), str(where[-2])
    best, current, seen = 1, "", {"": 0}
    for number, line in enumerate(text.splitlines(), start=1):
        if header := re.match(r"\s*\[\[?\s*([^\]]+?)\s*\]", line):
            current = header[1].replace('"', "")
            seen[current] = seen.get(current, -1) + 1
            if current in (table, f"{table}.{key}".lstrip(".")) and seen[current] == nth:
                best = number
        elif seen.get(current, 0) != (nth if current == table else 0):
            continue
        elif _assigns(line, key, table=table, current=current):
            return number
    return best


def _assigns(line: str, key: str, *, table: str, current: str) -> bool:
    """Whether `line`, below the header `current`, sets `key` of `table`: plainly, dotted or in an inline
    table.
    """
    plain = re.match(r"""\s*["']?([\w.-]+)["']?\s*=""", line)
    if not plain:
        return False
    full = f"{current}.{plain[1]}".lstrip(".")
    path = f"{table}.{key}".lstrip(".")
    return full == path or (full == table and re.search(rf"\b{re.escape(key)}\b\s*=", line) is not None)
