# SPDX-License-Identifier: Apache-2.0
"""What a daemon that starts again believes about the containers of a living pod: what the guest says of them.

Called by `pod` once it has met the agent. The guest's word is taken for states and exits; a container that only the
guest knows, or that only has a bundle, was being made when the daemon ended, and is removed.
"""

import asyncio
from collections.abc import Iterable
from typing import TYPE_CHECKING

from stage1 import engine
from stage1.guest import messages

if TYPE_CHECKING:
    from cri.pods.container import LiveContainer
    from cri.pods.pod import LivePod


async def reconcile(pod: "LivePod", containers: Iterable[messages.Container]) -> None:
    """Bring the pod's containers to what the guest's agent listed. Raises PodError when the guest does not answer."""
    known = {container.id: container for container in containers}
    for container in pod.containers.values():
        _believe(container, known.pop(container.id, None))
    for half_done in known:
        await pod.call(messages.Delete(half_done))
    bundles = await asyncio.to_thread(engine.bundles, pod.directory)
    for bundle in set(bundles) - set(pod.containers):
        await asyncio.to_thread(engine.remove_container, pod.directory, bundle)


def _believe(container: "LiveContainer", seen: messages.Container | None) -> None:
    if seen is None:
        return container.lost()
    container.guest_pid = seen.pid
    if seen.state != messages.CREATED:
        container.started(seen.started_ns)
    if seen.state == messages.EXITED:
        container.exited(messages.Exited(container.id, 0, seen.exit_code, seen.oom_killed, seen.finished_ns))
    return None
