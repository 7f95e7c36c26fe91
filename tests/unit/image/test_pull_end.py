# SPDX-License-Identifier: Apache-2.0
"""Pulls that are given up: nothing works on in directories that are removed."""

import asyncio
import contextlib
import errno
import threading

import pytest

from cri.image import convert, pull
from stage1.errors import DiskFailed, Exhausted, PodError
from stage1.linux.supervise import Stopped
from stage1.rootfs.limits import Limits
from tests.fakes.patience import PATIENCE


class Workshop:
    """One that can't be removed the first times."""

    def __init__(self, fails: int, error: PodError) -> None:
        self.fails, self.error, self.closed = fails, error, asyncio.Event()
        self._loop = asyncio.get_running_loop()

    def close(self) -> None:
        if self.fails:
            self.fails -= 1
            raise self.error
        self._loop.call_soon_threadsafe(self.closed.set)


NO_DESCRIPTOR = Exhausted("open", errno.EMFILE, "/proc/self/mountinfo")
READ_ONLY = DiskFailed("unlink", errno.EROFS, "/tmp/a.lock")


@pytest.mark.parametrize(("fails", "error"), [(0, READ_ONLY), (1, NO_DESCRIPTOR), (3, NO_DESCRIPTOR), (2, READ_ONLY)])
async def test_a_directory_that_can_not_be_removed_now_is_removed_later(
    fails: int, error: PodError, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pull, "FIRST_S", 0.01)
    workshop = Workshop(fails, error)
    await pull.leave(workshop)  # type: ignore[arg-type]
    async with asyncio.timeout(10 * PATIENCE):
        await workshop.closed.wait()
        while pull.pending:
            await asyncio.sleep(0)


async def test_a_pull_that_is_given_up_ends_when_all_that_it_began_has_ended() -> None:
    """Of several layers the first that is cancelled ends the wait for all."""
    begun, go_on, stop, ended = threading.Event(), threading.Event(), threading.Event(), []

    def converting() -> None:
        begun.set()
        stop.wait(5 * PATIENCE)
        go_on.wait(5 * PATIENCE)
        ended.append(True)
        raise Stopped("the pull was cancelled")

    async def whole() -> None:
        await convert._together([asyncio.sleep(600), convert.read(converting, stop, limits=Limits(readers=1))])

    task = asyncio.ensure_future(whole())
    await asyncio.to_thread(begun.wait, 5 * PATIENCE)
    task.cancel()
    await asyncio.to_thread(stop.wait, 5 * PATIENCE)
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(asyncio.shield(task), 0.2)
    assert not task.done() and not ended
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended == [True]
