# SPDX-License-Identifier: Apache-2.0
"""The progress of a pull on a terminal: a line for each layer, how much of it there is and how fast it comes, and one
for the image. Used by `clearpod images pull`.

Lines are written again in place, a few times a second; the last ones stay. Where they don't fit, the sum alone is
shown.
"""

import os
import sys
import time
from typing import TextIO

from cri.cli import shown
from cri.image.convert import COMES, DONE, HERE, State

EVERY_S = 0.2
"""The time between two drawings."""
SPAN_S = 3.0
"""Over which time the speed is taken."""
_ID_CHARS = 12


class Progress:
    """The progress of the pull of `name`, on `to`."""

    def __init__(self, name: str, to: TextIO | None = None) -> None:
        self._name, self._to = name, to or sys.stderr
        self._layers: dict[str, State] = {}
        self._counts: list[tuple[float, int]] = []
        """Times, and the bytes that had come by then."""
        self._begun_s, self._drawn_s, self._lines = time.monotonic(), 0.0, 0

    def see(self, state: State) -> None:
        """A layer has changed."""
        before = self._layers.get(state.blob)
        if before and state.state != COMES:
            state = state._replace(have=max(before.have, state.have))
        self._layers[state.blob] = state
        if time.monotonic() - self._drawn_s >= EVERY_S:
            self._draw()

    def end(self) -> None:
        """Draw for the last time."""
        if self._layers:
            self._draw()

    def _draw(self) -> None:
        self._drawn_s = time.monotonic()
        self._counts.append((self._drawn_s, sum(one.have for one in self._layers.values())))
        while len(self._counts) > 2 and self._counts[1][0] < self._drawn_s - SPAN_S:
            self._counts.pop(0)
        lines = self.lines()
        columns, height = _size(self._to)
        if len(lines) >= height:
            lines = lines[-1:]
        up = f"\x1b[{self._lines}A" if self._lines else ""
        text = "".join(f"{shown.cut(line, columns - 1)}\n" for line in lines)
        self._to.write(f"{up}\x1b[J{text}")
        self._to.flush()
        self._lines = len(lines)

    def lines(self) -> list[str]:
        """What is shown now."""
        rows = [
            f"{one.blob.partition(':')[2][:_ID_CHARS]}  {one.state:<13}{_amount(one)}" for one in self._layers.values()
        ]
        here = sum(one.size for one in self._layers.values() if one.state == HERE)
        count = sum(one.have for one in self._layers.values())
        total = sum(one.size for one in self._layers.values()) - here
        parts = [f"{shown.size(count)} of {shown.size(total)}", f"{shown.size(self._speed())}/s"]
        if all(one.state in (HERE, DONE) for one in self._layers.values()):
            parts = [f"{shown.size(count)} downloaded in {time.monotonic() - self._begun_s:.1f} s"]
        return [*rows, ", ".join([f"{self._name}: {parts[0]}", *parts[1:], f"{shown.size(here)} already here"])]

    def _speed(self) -> float:
        """Bytes a second, lately."""
        if len(self._counts) < 2:
            return 0.0
        (begin_s, begin), (end_s, end) = self._counts[0], self._counts[-1]
        return (end - begin) / max(end_s - begin_s, EVERY_S)


def _size(to: TextIO) -> tuple[int, int]:
    """Columns and lines of the terminal."""
    try:
        columns, lines = os.get_terminal_size(to.fileno())
    except OSError:
        columns, lines = 0, 0
    return columns or 80, lines or 24


def _amount(one: State) -> str:
    """How much there is of a layer."""
    if one.state == COMES and one.size:
        return f"{shown.size(one.have)} of {shown.size(one.size)}, {100 * one.have // one.size} %"
    return shown.size(one.size or one.have)
