# SPDX-License-Identifier: Apache-2.0
"""The lines that a container wrote, compared with its log. Pure."""

import itertools
from typing import NamedTuple

SCRIPT = "i=0; while [ $i -lt {count} ]; do i=$((i+1)); echo $i; [ $((i % {pause})) != 0 ] || sleep 0.2; done; exit 7"
EXIT_CODE = 7


class Compared(NamedTuple):
    """`written` lines were found in the log; so many are `lost`: not there, there twice, or not as they should be."""

    written: int
    lost: int


def compare(log: str, count: int, *, is_whole: bool) -> Compared:
    """What the log of a container has that wrote 1 to `count`; without `is_whole` its VM was killed on the way."""
    result = [line.split(" ", 3) for line in log.splitlines()]
    numbers = [
        int(fields[3]) for fields in result if len(fields) == 4 and fields[1:3] == ["stdout", "F"] and _is(fields[3])
    ]
    until = count if is_whole else max(numbers, default=0)
    odd = len(result) - len(numbers)
    twice = len(numbers) - len(set(numbers))
    missing = len(set(range(1, until + 1)) - set(numbers))
    is_sorted = all(a <= b for a, b in itertools.pairwise(numbers))
    return Compared(len(numbers), odd + twice + missing + (not is_sorted))


def _is(text: str) -> bool:
    return text.isascii() and text.isdigit()
