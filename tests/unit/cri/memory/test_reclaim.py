# SPDX-License-Identifier: Apache-2.0
"""Who gives cached files back, and how much, for a host that is short or not."""

import pytest

from cri.memory.reclaim import Ask, Guest, decide
from stage1.linux.pressure import Shortage

MIB = 1 << 20
SHORT = Shortage(memory_waits=30.0)
GUESTS = [Guest("a", 8 * MIB), Guest("b", 40 * MIB), Guest("c", 3 * MIB), Guest("d", 90 * MIB, rests_until_s=100.0)]


@pytest.mark.parametrize(
    ("host", "now_s", "expected"),
    [
        (Shortage(), 0.0, []),
        (Shortage(memory_waits=9.9, free_percent=5.0), 0.0, []),
        (SHORT, 0.0, [Ask("b", 20 * MIB), Ask("a", 4 * MIB)]),
        (Shortage(free_percent=4.0), 0.0, [Ask("b", 20 * MIB), Ask("a", 4 * MIB)]),
        (SHORT, 100.0, [Ask("d", 45 * MIB), Ask("b", 20 * MIB), Ask("a", 4 * MIB)]),
    ],
)
def test_only_a_host_that_is_short_asks_and_those_with_most_first(
    host: Shortage, now_s: float, expected: list[Ask]
) -> None:
    assert decide(host, GUESTS, now_s=now_s) == expected


def test_few_are_asked_at_once() -> None:
    assert len(decide(SHORT, [Guest(str(number), 50 * MIB) for number in range(50)], now_s=0.0)) == 4
