# SPDX-License-Identifier: Apache-2.0
"""How far a long build is: one line that is refreshed on a terminal, a line now and then elsewhere."""

import sys
import time
from typing import TextIO

SPARSE_S = 30.0
"""Between two lines where nothing can be refreshed."""
REFRESH_S = 0.2


class Progress:
    """Counts steps towards an `expected` number that need not be right. Use as a context manager."""

    def __init__(self, what: str, expected: int, stream: TextIO = sys.stderr) -> None:
        self._what, self._expected, self._stream = what, expected, stream
        self._terminal = stream.isatty()
        self._started = self._shown = time.monotonic()
        self._done, self._is_over = 0, False

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the last state on the screen, and the cursor on a fresh line."""
        if self._terminal:
            self._show()
            print(file=self._stream, flush=True)

    def step(self) -> None:
        """One more is done."""
        self._done += 1
        if time.monotonic() - self._shown >= (REFRESH_S if self._terminal else SPARSE_S):
            self._show()

    def end(self) -> None:
        """All is done, however many that were."""
        self._is_over = True
        if not self._terminal:
            self._show()

    def _show(self) -> None:
        self._shown = time.monotonic()
        percent = 100 if self._is_over else min(100 * self._done // self._expected, 99)
        text = line(self._what, self._done, percent, self._shown - self._started)
        if self._terminal:
            print(f"\r{text}\x1b[K", end="", file=self._stream, flush=True)
        else:
            print(text, file=self._stream, flush=True)


def line(what: str, done: int, percent: int, passed_s: float) -> str:
    """Pure: `images: kernel: 50 percent, 640 objects, 2m10s`."""
    minutes, seconds = divmod(int(passed_s), 60)
    return f"images: {what}: {percent} percent, {done} objects, {minutes}m{seconds:02}s"
