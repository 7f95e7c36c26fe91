# SPDX-License-Identifier: Apache-2.0
"""A failure that a client repeats is in the log once a minute, and no client makes us remember more than so many."""

from cri.repeats import Repeats


def test_a_text_is_new_once_in_its_time() -> None:
    repeats = Repeats(60.0, 10)
    assert [repeats.seen("a", at) for at in (0.0, 1.0, 59.9, 60.0, 61.0)] == [False, True, True, False, True]
    assert not repeats.seen("b", 61.0)


def test_only_so_many_are_remembered_and_the_oldest_goes_first() -> None:
    repeats = Repeats(60.0, 3)
    assert not any(repeats.seen(str(number), float(number)) for number in range(1000))
    assert [repeats.seen(text, 1000.0) for text in ("997", "998", "999")] == [True, True, True]
    assert not repeats.seen("996", 1000.0)
