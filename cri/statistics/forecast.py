# SPDX-License-Identifier: Apache-2.0
"""Predicts when a pod's statistics will be asked for again, from regular queries. Used by the meter. Pure.

A kubelet asks each 10 s, a scraper each 15, and each asks for everything at once. A guest that is asked shortly before
them answers no more often than otherwise, and no caller has to wait. Who asks now and then is not foreseen.
"""

from collections.abc import Sequence

ROUND_S = 0.9
"""Two queries within this time are one."""
NEAR_S = 0.4
"""How much a regular caller may be early or late."""
LONGEST_S = 65.0
KEPT = 8
"""Of so many times the pattern is looked for: enough for two callers of different periods."""


class Times:
    """The times of queries, in seconds of one clock."""

    def __init__(self) -> None:
        self._times: tuple[float, ...] = ()

    def add(self, now_s: float) -> list[float]:
        """Note a query now. Return when the next ones are expected, as far as that is new."""
        if self._times and now_s - self._times[-1] < ROUND_S:
            return []
        self._times = (*self._times[1 - KEPT :], now_s)
        return [now_s + period for period in periods(self._times)]


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
