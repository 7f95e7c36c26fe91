# SPDX-License-Identifier: Apache-2.0
"""Which pods are held while the state disk is nearly full, and when to measure again. Pure: for the guard."""

from collections.abc import Collection, Mapping
from typing import NamedTuple

MIB = 1 << 20
PART = 16
"""The fraction of a small disk that is kept free at most."""
STEP_PART = 32
"""A pod that takes this fraction of the space to keep free between two measurements is filling the disk."""
ENOUGH = 2
"""Held pods continue when this multiple of the space to keep free is free."""
FASTEST_BYTES = 4 << 30
"""The most that a pod can write in a second: it is measured before it can have filled the disk."""
SHORT_S, LONG_S = 0.05, 5.0


class DiskUsage(NamedTuple):
    """The disk at one time: its size, what is free of it, and what each pod has taken; bytes."""

    size_bytes: int
    free_bytes: int
    taken: Mapping[str, int]


class Decision(NamedTuple):
    """The pod to hold and the one to continue, empty for none."""

    hold: str = ""
    go_on: str = ""


def kept_free(keep_bytes: int, size_bytes: int) -> int:
    """The space to keep free on a disk of that size."""
    return min(keep_bytes, size_bytes // PART)


def evaluate(before: DiskUsage, now: DiskUsage, *, held: Collection[str], keep_bytes: int) -> Decision:
    """One pod at a time: the one that took most since the measurement `before`, if that was much. `held` are those that
    are held already, first the one that has been for longest.
    """
    keep = kept_free(keep_bytes, now.size_bytes)
    if now.free_bytes >= ENOUGH * keep:
        return Decision(go_on=next(iter(held), ""))
    if now.free_bytes >= keep:
        return Decision()
    grown = {one: now.taken[one] - before.taken[one] for one in now.taken if one in before.taken and one not in held}
    worst = max(grown, key=lambda one: grown[one], default="")
    return Decision(hold=worst) if worst and grown[worst] >= max(MIB, keep // STEP_PART) else Decision()


def pause_s(now: DiskUsage, *, held: Collection[str], keep_bytes: int) -> float:
    """Seconds until the next measurement."""
    if held:
        return SHORT_S
    above = now.free_bytes - kept_free(keep_bytes, now.size_bytes)
    return min(max(above / FASTEST_BYTES, SHORT_S), LONG_S)
