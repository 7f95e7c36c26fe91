# SPDX-License-Identifier: Apache-2.0
"""The removal of a pull's directory, which may have gigabytes: also where the host has no descriptor left for that now,
or its disk can't be written to.

Called by the pull. What is not removed when the daemon ends is removed at its next start.
"""

import asyncio
import logging

from cri.store.workshop import Workshop
from cri.threads import run_uncancellable
from stage1.errors import DiskFailed, Exhausted

log = logging.getLogger("clearpod.pull")

FIRST_S, LAST_S = 0.3, 30.0
"""Delays between attempts, each twice the one before."""
pending: set["asyncio.Task[None]"] = set()
"""The removals that are tried again."""


async def leave(workshop: Workshop) -> None:
    """Remove it now, or as soon as that is possible. Raises KernelError."""
    try:
        await run_uncancellable(workshop.close)
    except (Exhausted, DiskFailed) as error:
        log.warning("pull.left", extra={"error": str(error)})
        pending.add(task := asyncio.create_task(_closed(workshop), name="end of a pull"))
        task.add_done_callback(_ended)


async def _closed(workshop: Workshop) -> None:
    pause_s = FIRST_S
    while True:
        await asyncio.sleep(pause_s)
        try:
            return await run_uncancellable(workshop.close)
        except (Exhausted, DiskFailed):
            pause_s = min(2 * pause_s, LAST_S)


def _ended(task: "asyncio.Task[None]") -> None:
    pending.discard(task)
    if not task.cancelled() and (error := task.exception()):
        log.warning("pull.left", extra={"error": str(error)})
