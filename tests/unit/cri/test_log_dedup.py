# SPDX-License-Identifier: Apache-2.0
"""A failure that a client dedup is in the log once a minute, and no client makes us remember more than so many."""

from cri.log_dedup import LogDedup


def test_a_text_is_new_once_in_its_time() -> None:
    dedup = LogDedup(60.0, 10)
    assert [dedup.seen("a", at) for at in (0.0, 1.0, 59.9, 60.0, 61.0)] == [False, True, True, False, True]
    assert not dedup.seen("b", 61.0)


def test_only_so_many_are_remembered_and_the_oldest_goes_first() -> None:
    dedup = LogDedup(60.0, 3)
    assert not any(dedup.seen(str(number), float(number)) for number in range(1000))
    assert [dedup.seen(text, 1000.0) for text in ("997", "998", "999")] == [True, True, True]
    assert not dedup.seen("996", 1000.0)
