# SPDX-License-Identifier: Apache-2.0
"""What a daemon that starts again believes about the containers of a living pod: what the guest says of them.

Called by `adoption` once it has met the agent. The guest's word is taken for states and exits of containers that we
made; one that only the guest knows, or that only has a bundle, was being made when the daemon ended, and is removed.
"""

import asyncio
import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING

from stage1 import engine
from stage1.errors import NotFound, PodError
from stage1.guest import messages

if TYPE_CHECKING:
    from cri.pods.container import LiveContainer
    from cri.pods.pod import LivePod

log = logging.getLogger("clearpod.pod")


def believe(pod: "LivePod", containers: Iterable[messages.Container]) -> tuple[str, ...]:
    """Bring the pod's containers to what the guest's agent listed; returns those that only the guest knows."""
    known = {container.id: container for container in containers}
    for container in pod.containers.values():
        _believe(container, known.pop(container.id, None))
    return tuple(known)


def believe_one(container: "LiveContainer", containers: Iterable[messages.Container]) -> None:
    """As `believe`, for one container that the guest may have started; one that it does not list was not."""
    for seen in containers:
        if seen.id == container.id:
            _believe(container, seen)


async def remove_half_done(pod: "LivePod", containers: Iterable[str], *, bundles: Iterable[str]) -> None:
    """Remove containers from the guest, then bundles that it does not use any more; both belong to nobody.

    What the guest does not remove keeps its bundle, and takes no more than its own guest's memory. Raises PodError.
    """
    kept = set(await asyncio.gather(*(_delete(pod, one) for one in containers)))
    for bundle in set(bundles) - kept:
        await asyncio.to_thread(engine.remove_container, pod.directory, bundle)


async def _delete(pod: "LivePod", container: str) -> str:
    """The container's id if it may still be there, else nothing."""
    try:
        await pod.call(messages.Delete(container))
    except NotFound:
        return ""
    except PodError as error:
        log.warning("pod.untidy", extra={"pod": pod.id, "container": container, "error": str(error)})
        return container
    return ""


def _believe(container: "LiveContainer", seen: messages.Container | None) -> None:
    if seen is None:
        return container.lost()
    container.guest_pid = seen.pid
    if seen.state != messages.CREATED:
        container.started(seen.started_ns)
    if seen.state == messages.EXITED:
        container.exited(messages.Exited(container.id, 0, seen.exit_code, seen.oom_killed, seen.finished_ns))
    return None
