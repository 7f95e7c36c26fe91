# SPDX-License-Identifier: Apache-2.0
"""Flow control of one stream of a link: who may still send how much. Used by `link`. No I/O.

Each end begins with a credit of `WINDOW` bytes; the receiver gives more when it has used up what came.
"""

from stage1.guest.frame import MAX_DATA, WINDOW

GIVE_BACK = 16384  # credit is returned in portions of at least this size
MAX_CREDIT = 2**30


class Flow:
    """`credit` is what we may still send. `has_ended`: the guest's direction is closed."""

    __slots__ = ("_uncredited", "_window", "credit", "has_ended")

    def __init__(self) -> None:
        self._window, self._uncredited, self.credit, self.has_ended = WINDOW, 0, WINDOW, False

    def receive(self, size: int, *, end: bool) -> bool:
        """Count what the guest sent; whether it was allowed to."""
        self._window -= size
        self.has_ended = end
        return size <= MAX_DATA and self._window >= 0

    def use_up(self, count: int) -> int:
        """Note that this much was consumed. Return how much credit to give for it, and for earlier bytes, now."""
        self._uncredited += count
        if self._uncredited < GIVE_BACK:
            return 0
        amount, self._uncredited = self._uncredited, 0
        self._window += amount
        return amount

    def gain(self, amount: int) -> bool:
        """The guest gives us credit; whether it may be so much."""
        self.credit += amount
        return self.credit <= MAX_CREDIT
