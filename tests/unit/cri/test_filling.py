# SPDX-License-Identifier: Apache-2.0
"""Who is held while the disk is nearly full, and how soon it is looked at again."""

import pytest

from cri.storage.filling import LONG_S, PART, SHORT_S, Decision, DiskUsage, evaluate, kept_free, pause_s

MIB, GIB = 1 << 20, 1 << 30
KEEP = 256 * MIB


def seen(free_mib: int, **taken_mib: int) -> DiskUsage:
    return DiskUsage(100 * GIB, free_mib * MIB, {name: mib * MIB for name, mib in taken_mib.items()})


@pytest.mark.parametrize(
    ("before", "now", "held", "decision"),
    [
        (seen(900, a=0, b=0), seen(300, a=600, b=0), (), Decision()),  # there is enough as yet
        (seen(300, a=600, b=9), seen(200, a=690, b=10), (), Decision(hold="a")),
        (seen(300, a=600, b=9), seen(200, a=690, b=19), (), Decision(hold="a")),  # one at a time
        (seen(200, a=690, b=19), seen(190, a=690, b=29), ("a",), Decision(hold="b")),
        (seen(200, a=690, b=19), seen(193, a=690, b=26), ("a",), Decision()),  # who writes a little is left alone
        (seen(200), seen(150, a=50), (), Decision()),  # not known before
        (seen(200, a=50), seen(150), (), Decision()),  # gone
        (seen(200, a=50), seen(150, a=50), (), Decision()),  # somebody else
        (seen(0, a=50), seen(0, a=50), ("a",), Decision()),
        (seen(0, a=50), seen(511, a=50), ("a",), Decision()),  # not enough to go on
        (seen(0, a=50), seen(512, a=50), ("a", "b"), Decision(go_on="a")),  # first who has waited longest
        (seen(0, a=50), seen(512, a=50), (), Decision()),
    ],
)
def test_who_is_held_and_who_goes_on(
    before: DiskUsage, now: DiskUsage, held: tuple[str, ...], decision: Decision
) -> None:
    assert evaluate(before, now, held=held, keep_bytes=KEEP) == decision


def test_a_small_disk_keeps_a_part() -> None:
    assert kept_free(KEEP, 100 * GIB) == KEEP
    assert kept_free(KEEP, 64 * MIB) == 64 * MIB // PART
    small = DiskUsage(64 * MIB, 3 * MIB, {"a": 50 * MIB})
    assert evaluate(small._replace(taken={"a": 48 * MIB}), small, held=(), keep_bytes=KEEP).hold == "a"


@pytest.mark.parametrize(
    ("free_mib", "held", "low_s", "high_s"),
    [
        (90_000, (), LONG_S, LONG_S),
        (256 + 4096, (), 0.9, 1.1),  # not even a pod that writes 4 GiB in a second is missed
        (300, (), SHORT_S, SHORT_S),
        (0, (), SHORT_S, SHORT_S),
        (90_000, ("a",), SHORT_S, SHORT_S),
    ],
)
def test_the_nearer_the_sooner(free_mib: int, held: tuple[str, ...], low_s: float, high_s: float) -> None:
    assert low_s <= pause_s(seen(free_mib), held=held, keep_bytes=KEEP) <= high_s
