# SPDX-License-Identifier: Apache-2.0
"""A pod's file is written now, or when that is possible again."""

import asyncio
from collections.abc import Callable

import pytest

from cri.live.changes import StateSaver
from stage1.errors import DiskFailed, NoSpace
from stage1.linux.libc import failure
from tests.fakes.patience import PATIENCE


class File:
    """A file whose next writes fail with these errors."""

    def __init__(self, *errors: Exception) -> None:
        self.errors, self.tries = list(errors), 0
        self.written = asyncio.Event()

    def write(self) -> None:
        self.tries += 1
        if self.errors:
            raise self.errors.pop(0)
        self.written.set()


@pytest.mark.parametrize("error", [NoSpace("full"), DiskFailed("write", 30, "it")], ids=["full", "read-only"])
async def test_what_can_not_be_written_now_is_written_when_that_is_possible(error: Exception) -> None:
    file = File(error, error)
    saver = StateSaver(file.write, "pod a/b", retry_s=0.01)
    saver.save_soon()
    saver.save_soon()
    async with asyncio.timeout(10 * PATIENCE):
        await file.written.wait()
    assert file.tries == 3
    saver.close()


@pytest.mark.parametrize("end", [StateSaver.close, StateSaver.save_soon], ids=["closed", "gone"])
async def test_nothing_is_tried_for_a_pod_that_is_gone(end: Callable[[StateSaver], None]) -> None:
    file = File(NoSpace("full"), failure("open", 2, "its directory"))
    saver = StateSaver(file.write, "pod a/b", retry_s=0.01)
    saver.save_soon()
    end(saver)
    tries = file.tries
    await asyncio.sleep(0.1)
    assert file.tries == tries
    saver.close()


def test_another_fault_is_not_hidden() -> None:
    with pytest.raises(ZeroDivisionError):
        StateSaver(File(ZeroDivisionError()).write, "pod a/b").save_soon()
