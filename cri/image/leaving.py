# SPDX-License-Identifier: Apache-2.0
"""The removal of a pull's directory, which may have gigabytes: also where the host has no descriptor left for that now.

Called by the pull. What is not removed when the daemon ends is removed at its next start.
"""

import asyncio
import logging

from cri.store.workshop import Workshop
from cri.threads import retry_while_exhausted, run_uncancellable
from stage1.errors import Exhausted

log = logging.getLogger("clearpod.pull")

pending: set["asyncio.Task[None]"] = set()
"""The removals that are tried again."""


async def leave(workshop: Workshop) -> None:
    """Remove it now, or as soon as that is possible. Raises KernelError."""
    try:
        await run_uncancellable(workshop.close)
    except Exhausted:
        pending.add(task := asyncio.create_task(retry_while_exhausted(workshop.close), name="end of a pull"))
        task.add_done_callback(_ended)


def _ended(task: "asyncio.Task[None]") -> None:
    pending.discard(task)
    if not task.cancelled() and (error := task.exception()):
        log.warning("pull.left", extra={"error": str(error)})
