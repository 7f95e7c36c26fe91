# SPDX-License-Identifier: Apache-2.0
"""Clears away what is left of a removed container, after the answer to its client: its part of the guest, its bundle
and the records of its log (docs/design/recovery.md).

Called by `stop` once the pod's file does not name the container any more, and by `create`, which waits. A daemon that
is killed before it is done leaves orphans, which the next one removes when it adopts the pod (`cri.pods.adoption`).
"""

import asyncio
import logging

from cri.containers.discard import discard
from cri.live.container import LiveContainer
from cri.live.pod import LivePod
from cri.threads import is_set_within
from stage1.errors import PodError

log = logging.getLogger("clearpod.container")

LATER_S = 0.1
"""How long it waits for the end of the pod, after which there is no guest to ask: a client that removes a container
often stops the pod next.
"""
MOST = 8
"""Containers of one pod that may be left at once."""


async def begin(pod: LivePod, container: LiveContainer) -> None:
    """Take over a container that the pod has no more, and return at once unless many are left, or the pod's disk
    outlives its VM and the container's files with it.
    """
    pod.leaving.containers[container.id] = container
    task = pod.gate.run_in_background(_clear(pod, container), f"removal of container {container.id}")
    pod.leaving.tasks.add(task)
    task.add_done_callback(pod.leaving.tasks.discard)
    if len(pod.leaving.tasks) > MOST or pod.record.pod.disk_volumes:
        await end(pod)


async def end(pod: LivePod) -> None:
    """Return when nothing is left, or will be tried again later since the guest does not answer: the next container has
    all the room.
    """
    if not pod.leaving.tasks:
        return
    pod.leaving.due.set()
    try:
        await asyncio.wait(pod.leaving.tasks)
    finally:
        pod.leaving.due.clear()


async def _clear(pod: LivePod, container: LiveContainer) -> None:
    try:
        with pod.gate.using_files():
            await is_set_within(LATER_S, pod.leaving.due)
            await discard(pod, container, limit_s=pod.tools.react_s)
    except PodError as error:  # of files: what is left goes with the pod
        log.warning("pod.cleanup_failed", extra={**pod.log_fields(container), "error": str(error)})
    finally:
        container.log.close()
        pod.leaving.containers.pop(container.id, None)
    if pod.images.has_window:
        await pod.images.settle()
