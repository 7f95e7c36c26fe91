# SPDX-License-Identifier: Apache-2.0
"""What a guest did not start in time is not started later: nobody would know of it."""

from typing import Any

import pytest

from stage1.errors import TimedOut, WrongState
from stage1.guest.messages import Exec, Halt, Launch, Op, Signal
from stage1.rkt import apps


class Silent:
    """A client of a guest that answers to nothing, or to what begins something with `error`."""

    def __init__(self, error: type[Exception] = TimedOut) -> None:
        self.asked: list[Op] = []
        self._error = error

    def limit(self, limit_s: float) -> None:
        assert limit_s <= apps.UNDO_S

    def call(self, request: Op, timeout_s: float) -> None:
        self.asked.append(request)
        raise self._error("no")


def test_an_app_that_was_not_started_in_time_is_to_end() -> None:
    client: Any = Silent()
    with pytest.raises(TimedOut):
        apps._ask_or_end(client, Launch("web"), end=Halt("web", 0))
    assert client.asked == [Launch("web"), Halt("web", 0)]


def test_a_command_that_did_not_begin_in_time_is_to_be_killed() -> None:
    client: Any = Silent()
    with pytest.raises(TimedOut):
        apps.when_running(client, "web", request=Exec("web", 7, "exec-7.json"))
    assert client.asked == [Exec("web", 7, "exec-7.json"), Signal("web", 7, 9, True)]


def test_what_was_refused_needs_no_end() -> None:
    client: Any = Silent(WrongState)
    with pytest.raises(WrongState):
        apps._ask_or_end(client, Launch("web"), end=Halt("web", 0))
    assert client.asked == [Launch("web")]
