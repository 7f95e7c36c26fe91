# SPDX-License-Identifier: Apache-2.0
"""The phases of one pod's start and how long each took. Filled by `clearpod run`, shown with --timeline."""

import time

WIDTH = 32


class Timeline:
    """Marks in milliseconds since the process began; `text` draws them, one line each."""

    def __init__(self, start_s: float) -> None:
        """Marks are relative to `start_s`, of time.monotonic."""
        self._start_s = start_s
        self._marks: list[tuple[float, str]] = []
        self._notes: list[str] = []

    def mark(self, what: str) -> None:
        """Note that `what` was reached now."""
        self._marks.append(((time.monotonic() - self._start_s) * 1000, what))

    def note(self, text: str) -> None:
        """A line below the table, for times of other clocks."""
        self._notes.append(text)

    def text(self) -> str:
        """The table: when, how long since the line before, a bar in proportion, what."""
        total_ms = max((at_ms for at_ms, _ in self._marks), default=1.0)
        lines = [f"{'at ms':>9} {'took ms':>9}  {'':{WIDTH}}  reached"]
        before_ms = 0.0
        for at_ms, what in self._marks:
            left, right = (round(x / total_ms * WIDTH) for x in (before_ms, at_ms))
            bar = " " * min(left, WIDTH - 1) + "#" * max(1, right - left)
            lines.append(f"{at_ms:9.1f} {at_ms - before_ms:9.1f}  {bar:{WIDTH}}  {what}")
            before_ms = at_ms
        return "\n".join([*lines, *self._notes]) + "\n"
