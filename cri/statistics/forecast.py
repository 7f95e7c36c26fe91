# SPDX-License-Identifier: Apache-2.0
"""Predicts when a pod's statistics will be asked for again, from the queries before. Used by the meter. Pure.

A kubelet asks each 10 s, a scraper each 15, and each asks for everything at once. If guests are asked
shortly before, no caller waits, and guests do not answer more often. A caller's period is constant either between its
queries, or between an answer and the next query. docs/design/daemon.md has the reasons.
"""

import math
from collections.abc import Sequence

ROUND_S = 0.9
"""Two queries within this time are one."""
TOGETHER_S = 0.1
"""So is one so soon after the answer to the one before, however long that took."""
NEAR_S = 0.4
"""How much a regular caller may be early or late."""
LONGEST_S = 65.0
AGAIN_S = 1.0
"""The pause of a caller who has asked once: `crictl stats` asks twice, for a rate."""
KEPT = 8
"""Of so many times the pattern is looked for: enough for two callers of different periods."""


class Times:
    """The times of one kind of query and of its answers, in seconds of one clock."""

    def __init__(self) -> None:
        self._times: tuple[float, ...] = ()
        self._pauses: tuple[float, ...] = ()
        self._answered_s, self._is_new = -math.inf, False

    @property
    def is_first(self) -> bool:
        """Whether there was one query only."""
        return len(self._times) == 1

    def add(self, now_s: float) -> None:
        """Note a query now."""
        pause_s = now_s - self._answered_s
        if not self._times or (now_s - self._times[-1] >= ROUND_S and pause_s >= TOGETHER_S):
            self._is_new = True
            self._times = (*self._times[1 - KEPT :], now_s)
            self._pauses = (*self._pauses[-1:], pause_s)

    def answered(self, now_s: float) -> list[float]:
        """Note that the last query is answered now. Return when the next ones are expected, as far as that is new."""
        self._answered_s = now_s
        if not self._is_new:
            return []
        self._is_new = False
        last, pauses = self._times[-1], self._pauses
        regular = [last + period for period in periods(self._times)]
        again = now_s + (pauses[-1] if pauses[-1] <= LONGEST_S else AGAIN_S)
        is_steady = abs(pauses[-1] - pauses[0]) <= NEAR_S if len(pauses) > 1 else False
        return merged([*regular, again]) if is_steady or not regular else regular


class Lists:
    """When lists of many pods are expected, by those that were in them, for those that have begun since. Of a node."""

    def __init__(self) -> None:
        self._times: dict[bool, list[float]] = {False: [], True: []}

    def note(self, files: bool, times: Sequence[float]) -> None:
        """Expect a list at these times, of open files too if `files`."""
        self._times[files] = merged([*self._times[files], *times])[-KEPT:]

    def after(self, files: bool, now_s: float) -> list[float]:
        """Return the times that have not passed."""
        return [one for one in self._times[files] if one > now_s]


def merged(times: Sequence[float]) -> list[float]:
    """The times in order; of several within NEAR_S the first, for which what is asked is new enough for the others."""
    result: list[float] = []
    for one in sorted(times):
        if not result or one - result[-1] > NEAR_S:
            result.append(one)
    return result


def periods(times: Sequence[float]) -> list[float]:
    """The periods at which a caller, who asked at the last of `times`, has asked at least three times. A multiple of
    one is none.
    """
    *before, last = times
    regular: list[float] = []
    for period in (last - one for one in reversed(before)):
        is_regular = any(abs(last - 2 * period - one) <= NEAR_S for one in before)
        is_multiple = any(abs(period - round(period / one) * one) <= NEAR_S for one in regular)
        if is_regular and not is_multiple and period <= LONGEST_S:
            regular.append(period)
    return regular
