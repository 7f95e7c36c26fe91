# SPDX-License-Identifier: Apache-2.0
"""The end of what `create` has made of a container: in the guest, and on the host but for the log file.

Called by `create` for one that could not be made, and by `leaving` for one that was removed. For one that does not run
no VM is ended: a guest that does not answer removes its part later.
"""

import asyncio
import logging

from cri.live.container import LiveContainer
from cri.live.deadlines import limit
from cri.live.pod import LivePod
from cri.retry import backoff, every, retry_while_busy
from cri.threads import UNDO_S, run_uncancellable
from stage1 import engine
from stage1.errors import NotFound, PodError
from stage1.guest import messages
from stage1.linux import beneath

log = logging.getLogger("clearpod.container")

BUSY_S = 0.05
FIRST_PAUSE_S, LAST_PAUSE_S = 1.0, 60.0
"""Delay between attempts to remove what a guest did not remove in time."""


async def discard(pod: LivePod, container: LiveContainer, *, limit_s: float) -> None:
    """Undo `containers.create`. The agent is asked first, since it still uses the bundle; if it does not answer within
    `limit_s`, or refuses, the bundle goes later.
    """
    is_late = False
    try:
        if pod.is_ready:  # else its VM is about to end, and may not answer
            async with limit(pod, "Delete", limit_s=max(limit_s, UNDO_S)):
                await _delete(pod, container.id)
    except NotFound:
        pass
    except PodError:
        is_late = pod.is_ready  # else there is nothing to undo
    for stream in (*container.streams(), container.record.stdin):
        pod.forget(stream)
    await run_uncancellable(remove_files, pod, container, has_bundle=not is_late)
    if is_late:
        log.warning("container.late", extra=pod.log_fields(container))
        pod.gate.run_in_background(discard_later(pod, container), f"removal of container {container.id}")


def remove_files(pod: LivePod, container: LiveContainer, *, has_bundle: bool = True) -> None:
    """Close its log and remove its other files; with `has_bundle` the bundle too. Blocks. Idempotent."""
    container.log.close()
    container.log.remove_record()
    if container.record.guest_id:
        with beneath.Root(pod.directory, one_mount=True) as own:
            own.unlink(engine.bundle(container.record.guest_id))
    if has_bundle:
        has_mounts = bool(container.record.container.bound_mounts)
        engine.remove_container(pod.directory, container.id, has_mounts=has_mounts)


async def _delete(pod: LivePod, container_id: str) -> None:
    """Ask the guest until it is not busy with another request for the container, such as limits that came too late."""
    await retry_while_busy(lambda: pod.call(messages.Delete(container_id)), every(BUSY_S, lambda: pod.is_ready))


async def discard_later(pod: LivePod, container: LiveContainer) -> None:
    """Retry to remove a container from its guest. Until that succeeds, the container takes memory of the guest and
    keeps its bundle. In a copied guest it has another name, which the pod does not know any more.
    """
    name, pauses = container.record.guest_id or container.id, backoff(FIRST_PAUSE_S, LAST_PAUSE_S)
    while pod.is_ready:
        await asyncio.sleep(next(pauses))
        try:
            await pod.call(messages.Delete(name))
        except NotFound:
            pass
        except PodError:
            continue
        await run_uncancellable(engine.remove_container, pod.directory, container.id)
        await pod.images.settle()
        return
