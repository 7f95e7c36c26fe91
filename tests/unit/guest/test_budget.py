# SPDX-License-Identifier: Apache-2.0
"""How often a guest may do what costs its host: at once, and in the long run."""

import pytest

from stage1.guest import budget
from stage1.guest.budget import Bucket, Budget
from stage1.guest.link import LinkFault


def test_a_bucket_gives_what_it_has_and_then_as_much_as_comes_in() -> None:
    bucket = Bucket(10, 5)
    assert [bucket.take(1, 100.0) for _ in range(5)] == [0] * 5
    assert bucket.take(1, 100.0) == pytest.approx(0.1)
    assert bucket.take(1, 100.2) == 0
    assert bucket.take(100, 1000.0) == pytest.approx(9.5)  # it was full, and no fuller
    assert bucket.take(0, 999.0) == pytest.approx(9.5)  # a clock that goes back gives nothing


def test_a_guest_that_does_its_work_is_never_kept_waiting() -> None:
    account = Budget()
    assert not any(account.spend(second, events=256, useless=0, resyncs=0) for second in range(100))
    assert account.spend(100, events=0, useless=13_000, resyncs=8) == 0  # its ring again, and a stormy restart


@pytest.mark.parametrize("what", ["events", "useless"])
def test_a_flood_is_slowed_to_its_rate(what: str) -> None:
    account, now_s, seen = Budget(), 0.0, 0
    for _ in range(100):
        seen += 1000
        counts = {"events": 0, "useless": 0, what: 1000 if what == "events" else seen}
        now_s += account.spend(now_s, resyncs=0, **counts)
    rate = {"events": budget.EVENTS_PER_S, "useless": budget.USELESS_PER_S}[what]
    at_once = {"events": budget.EVENTS_AT_ONCE, "useless": budget.USELESS_AT_ONCE}[what]
    assert now_s == pytest.approx((100_000 - at_once) / rate)


def test_connections_are_slowed_and_broken_frames_without_end_are_a_fault() -> None:
    account = Budget()
    assert not any(account.connect(0.0) for _ in range(budget.CONNECTIONS_AT_ONCE))
    assert account.connect(0.0) == pytest.approx(1 / budget.CONNECTIONS_PER_S)
    assert account.spend(0.0, events=0, useless=0, resyncs=budget.RESYNCS_AT_ONCE) == 0
    with pytest.raises(LinkFault, match="malformed frames"):
        account.spend(1.0, events=0, useless=0, resyncs=budget.RESYNCS_AT_ONCE + 1)
