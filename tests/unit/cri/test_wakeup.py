# SPDX-License-Identifier: Apache-2.0
"""A guest is woken from a thread, and one that does not answer causes no error."""

import asyncio

from cri.live.guest import wakeup_of
from stage1.errors import VmFailed
from stage1.guest import messages
from tests.fakes.patience import PATIENCE


async def test_it_is_asked_once_for_each_time_and_may_fail() -> None:
    asked: list[messages.Op] = []
    done = asyncio.Event()

    async def call(op: messages.Op) -> messages.Reply:
        asked.append(op)
        if len(asked) == 2:
            done.set()
        raise VmFailed("it is dead")

    wake = wakeup_of(call)
    await asyncio.to_thread(wake)
    await asyncio.to_thread(wake)
    async with asyncio.timeout(10 * PATIENCE):
        await done.wait()
    assert asked == [messages.List(), messages.List()]
