# SPDX-License-Identifier: Apache-2.0
"""A pod's background work, when the pod ends at once."""

import asyncio
import inspect

import pytest

from cri.live.gate import Gate


async def test_work_that_has_not_begun_is_cancelled_like_what_has() -> None:
    """Without a warning about a coroutine that was never awaited, which would be an error here."""
    gate, begun = Gate(), asyncio.Event()
    body = begun.wait()
    task = gate.run_in_background(body, "what waits")
    await gate.close()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert inspect.getcoroutinestate(body) == inspect.CORO_CLOSED
