# SPDX-License-Identifier: Apache-2.0
"""The files that a container writes for its host, where its guest has copies of them: a termination log. The guest is
asked to write them back when the container has ended, and until then its exit is not reported.

Called for each container that is made or adopted. A guest that does not answer delays the end by LIMIT_S, and its
host sees what was written back before.
"""

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from cri.live.container import LiveContainer
from cri.retry import every, retry_while_busy
from stage1.errors import NotFound, PodError
from stage1.guest import messages

if TYPE_CHECKING:
    from cri.live.pod import LivePod

log = logging.getLogger("clearpod.container")

LIMIT_S = 5.0
"""Half of what an end may take (`Tools.react_s`)."""
BUSY_S = 0.05


def follow(pod: "LivePod", container: LiveContainer) -> None:
    """Let the container's end wait for its outputs, if it has some."""
    if any(mount.memory.is_output for mount in container.record.container.mounts):
        saving = _Saving(pod, container)
        container.before_end = saving.run


class _Saving:
    """Asks the guest once to write back the outputs of one container."""

    def __init__(self, pod: "LivePod", container: LiveContainer) -> None:
        self._pod, self._container = pod, container
        self._task: asyncio.Task[None] | None = None

    def run(self, then: Callable[[], None]) -> None:
        """Call `then` when that is done or has failed. When we end before, the next daemon does it."""
        if self._task is None:
            self._task = self._pod.gate.run_in_background(self._save(), f"outputs of {self._container.id}")
            self._task.add_done_callback(lambda task: None if task.cancelled() else then())

    async def _save(self) -> None:
        try:
            async with asyncio.timeout(LIMIT_S):
                await self._ask()
        except (PodError, TimeoutError) as error:
            why = str(error) or f"the guest did not answer within {LIMIT_S:g} s"
            log.warning("container.outputs", extra={**self._pod.log_fields(self._container), "error": why})

    async def _ask(self) -> None:
        with suppress(NotFound):  # it is removed just now
            op = messages.Update(self._container.id)
            await retry_while_busy(lambda: self._pod.call(op), every(BUSY_S, lambda: self._pod.is_ready))
