# SPDX-License-Identifier: Apache-2.0
"""The end of a running pod: its containers are killed, its guest is asked to end, and if it does not its VM is killed.

Called by the pod, under its lock. A guest that does not answer gets one limit, not one for each question.
"""

import asyncio
from typing import TYPE_CHECKING

from cri.pods.threads import is_set_within
from stage1.errors import PodError, TimedOut, VmFailed
from stage1.guest import messages
from stage1.linux import process

if TYPE_CHECKING:
    from cri.pods.pod import LivePod

END_S = 2.0
"""How long the guest gets to end by itself."""
KILL_S = 20.0


async def end(pod: "LivePod") -> None:
    """Return when `pod.gone` is set. Raises VmFailed when the VM can't be killed."""
    limit_s = END_S if await _kill_containers(pod) else 0
    try:
        if limit_s:
            await pod.call(messages.Shutdown(), timeout_s=limit_s)
    except TimedOut:
        limit_s = 0  # it has had its time
    except PodError:
        pass  # it may be gone before it could answer
    if not await is_set_within(limit_s, pod.gone) and pod.vm is not None:
        await asyncio.to_thread(pod.vm.kill)
        if not await is_set_within(KILL_S, pod.gone):
            raise VmFailed(f"the virtual machine of {pod.title} (pid {pod.vm.pid}) can't be killed")


async def _kill_containers(pod: "LivePod") -> bool:
    """Whether it is worth to ask the guest for more."""
    running = [container for container in pod.containers.values() if container.is_running]
    for container in running:
        try:
            await pod.call(messages.Signal(container.id, 0, process.SIGKILL, True), timeout_s=END_S)
        except PodError as error:
            return not isinstance(error, TimedOut)  # no agent any more: the VM's end will end them
    waits = [asyncio.ensure_future(container.ended.wait()) for container in running]
    if waits:
        _, late = await asyncio.wait(waits, timeout=END_S)
        for wait in late:
            wait.cancel()
    return True
