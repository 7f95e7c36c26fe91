# SPDX-License-Identifier: Apache-2.0
"""Requests that a busy guest refuses: repeated until it answers, the caller has given up, or another error comes."""

from itertools import islice

import pytest

from cri.retry import backoff, every, retry_while_busy, within
from stage1.errors import AgentFailed, NotFound, PodError, WrongState

BUSY = WrongState("busy")


@pytest.mark.parametrize(
    ("answers", "pauses", "raised", "asked"),
    [
        (["done"], [], None, 1),
        ([BUSY, BUSY, "done"], [0, 0], None, 3),
        ([BUSY, BUSY, "done"], [0], WrongState, 2),
        ([BUSY], [], WrongState, 1),
        ([BUSY, NotFound("gone")], [0, 0], NotFound, 2),
        ([AgentFailed("broken"), "done"], [0, 0], AgentFailed, 1),
    ],
)
async def test_a_request_is_repeated_for_each_pause_and_only_while_it_is_refused_as_busy(
    answers: list[str | PodError], pauses: list[float], raised: type[PodError] | None, asked: int
) -> None:
    left = list(answers)

    async def ask() -> str:
        if isinstance(answer := left.pop(0), PodError):
            raise answer
        return answer

    if raised:
        with pytest.raises(raised):
            await retry_while_busy(ask, pauses)
    else:
        assert await retry_while_busy(ask, pauses) == "done"
    assert len(answers) - len(left) == asked


def test_retries_end_without_a_waiter_and_at_the_deadline() -> None:
    waiting = iter([True, True, False])
    assert list(every(0.5, lambda: next(waiting))) == [0.5, 0.5]
    assert list(every(0.5, within(-1))) == []
    assert list(islice(every(0.5, within(3600)), 3)) == [0.5, 0.5, 0.5]


def test_a_backoff_doubles_up_to_its_limit() -> None:
    assert list(islice(backoff(1, 5), 5)) == [1, 2, 4, 5, 5]
