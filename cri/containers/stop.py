# SPDX-License-Identifier: Apache-2.0
"""Stop and removal of one container, also in a guest that does not answer. `order` has the states in which they are
possible, `leaving` what follows the answer to a removal.

Called by the RPCs with a pod of the table. A container that may run ends with its VM when nothing else helps.
"""

import logging
import time

from cri import events
from cri.containers import leaving
from cri.live.container import LiveContainer
from cri.live.pod import LivePod
from cri.live.shutdown import KILL_S, kill_unresponsive
from cri.threads import is_done_within, is_set_within
from stage1.errors import PodError, TimedOut, WrongState
from stage1.guest import messages
from stage1.linux import process

log = logging.getLogger("clearpod.container")

LOG_S = 1.0
"""How long a killed container may wait for a log that can't be written."""


async def stop(pod: LivePod, container: LiveContainer, *, grace_s: float) -> None:
    """Return when it is EXITED: the stop signal, once, then `grace_s`, then SIGKILL. Idempotent.

    One that is just being started is stopped when it has been. Raises VmFailed when the VM can't be killed.
    """
    until = time.monotonic() + grace_s
    limit_s = grace_s + pod.tools.react_s
    if container.is_starting and not await is_done_within(limit_s, container.start_settled()):
        return await kill_unresponsive(pod, f"it did not report whether container {container.id} has started")
    if not container.is_running:
        return None
    if grace_s > 0 and pod.is_ready:
        await is_done_within(grace_s, _ask_to_end(pod, container, grace_s=grace_s))
    if not await is_set_within(until - time.monotonic(), container.ended):
        await _kill(pod, container)
    return None


async def remove(pod: LivePod, container: LiveContainer) -> None:
    """Kill it if it runs and forget it; `leaving` removes the rest of it but its log file."""
    container.removers += 1
    try:
        with pod.gate.using_files():
            await _remove(pod, container)
    finally:
        container.removers -= 1


async def follow_rest(pod: LivePod) -> None:
    """One container less: the VM may run where the others may."""
    try:
        await pod.bind_cpus()
    except PodError as error:
        log.warning("pod.cpus", extra={"pod": pod.id, "title": pod.title, "error": str(error)})


async def _remove(pod: LivePod, container: LiveContainer) -> None:
    await stop(pod, container, grace_s=0)
    async with container.lock:
        await stop(pod, container, grace_s=0)
        if pod.containers.get(container.id) is not container:
            return  # another call has done it meanwhile, or the pod was removed
        del pod.containers[container.id]
        pod.save_soon()
        pod.tell(events.DELETED, container.id)
    await leaving.begin(pod, container)
    await follow_rest(pod)


async def _ask_to_end(pod: LivePod, container: LiveContainer, *, grace_s: float) -> None:
    """The stop signal, once however often this is called, and its end."""
    if not container.was_asked_to_stop:
        container.was_asked_to_stop = True
        signal = messages.Signal(container.id, 0, container.record.container.stop_signal, False)
        try:
            await pod.call(signal, timeout_s=grace_s)
        except WrongState:
            pass  # it has ended just now, and the word of it is on its way
        except TimedOut:
            return
        except PodError:
            if container.is_running and pod.is_ready:  # else it ended by itself just now
                raise
    await container.ended.wait()


async def _kill(pod: LivePod, container: LiveContainer) -> None:
    limit_s = pod.tools.react_s
    if pod.is_ready and not await is_done_within(limit_s, _kill_and_wait(pod, container)) and pod.is_ready:
        return await kill_unresponsive(pod, f"container {container.id} did not end within {limit_s:g} s of SIGKILL")
    if not await is_set_within(KILL_S, container.ended):  # with its pod, which another call is ending
        raise TimedOut(f"container {container.id} did not end with {pod.title} within {KILL_S:g} s")
    return None


async def _kill_and_wait(pod: LivePod, container: LiveContainer) -> None:
    try:
        await pod.call(messages.Signal(container.id, 0, process.SIGKILL, True))
        if container.log.is_stuck and not await is_set_within(LOG_S, container.ended):
            await pod.call(
                messages.Delete(container.id)
            )  # its exit follows its output, which has no reader: discard that
    except PodError:
        pass  # what counts is whether it ends
    await container.ended.wait()
