# SPDX-License-Identifier: Apache-2.0
"""Which messages were logged a short time ago, so that they are logged once. Used by the server for the failures of
calls that clients repeat, and for those of copies of files. Pure.
"""


class LogDedup:
    """Remembers at most `most` texts, each for `within_s` seconds from when it was first seen."""

    def __init__(self, within_s: float, most: int) -> None:
        self._within_s, self._most = within_s, most
        self._first: dict[str, float] = {}

    def seen(self, text: str, now_s: float) -> bool:
        """Whether it is a repetition. `now_s` is of any clock that only goes forward."""
        while self._first and now_s - next(iter(self._first.values())) >= self._within_s:
            self._forget_oldest()
        if text in self._first:
            return True
        if len(self._first) >= self._most:
            self._forget_oldest()
        self._first[text] = now_s
        return False

    def _forget_oldest(self) -> None:
        del self._first[next(iter(self._first))]
