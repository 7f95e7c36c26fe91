# SPDX-License-Identifier: Apache-2.0
"""Where the time of one pod's start went. Filled by `clearpod run`, shown with --timeline. Pure but for the clock."""

import time

WIDTH = 32


class Timeline:
    """Marks in milliseconds since it was made; `text` draws them, one line each."""

    def __init__(self) -> None:
        self._start_s = time.monotonic()
        self._marks: list[tuple[float, str, str]] = []
        self._notes: list[str] = []

    def mark(self, name: str, what: str) -> None:
        """Something was reached now."""
        self._marks.append(((time.monotonic() - self._start_s) * 1000, name, what))

    def note(self, text: str) -> None:
        """A line below the table, for times of other clocks."""
        self._notes.append(text)

    def text(self) -> str:
        """The table: when, how long since the line before, a bar in proportion, what."""
        total_ms = max((at for at, _, _ in self._marks), default=1.0)
        lines = [f"{'at ms':>9} {'took ms':>9}  {'':{WIDTH}}  phase"]
        before_ms = 0.0
        for at_ms, name, what in self._marks:
            left, right = (round(x / total_ms * WIDTH) for x in (before_ms, at_ms))
            bar = " " * left + "#" * max(1, right - left)
            lines.append(f"{at_ms:9.1f} {at_ms - before_ms:9.1f}  {bar[:WIDTH]:{WIDTH}}  {name}: {what}")
            before_ms = at_ms
        return "\n".join([*lines, *self._notes]) + "\n"
