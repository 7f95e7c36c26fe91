# SPDX-License-Identifier: Apache-2.0
"""Stop and removal of one container, also in a guest that does not answer. `order` has the states in which they are
possible, `cri.live.deadlines` the time limits.

Called by the RPCs with a pod of the table, and by `create` for one that could not be made. A container that may run
ends with its VM when nothing else helps; for one that does not run no VM is ended: the guest removes its part later.
"""

import asyncio
import logging
import time

from cri import events
from cri.live.container import LiveContainer
from cri.live.deadlines import limit
from cri.live.pod import LivePod
from cri.live.shutdown import KILL_S, kill_unresponsive
from cri.retry import backoff, every, retry_while_busy
from cri.threads import UNDO_S, is_done_within, is_set_within, run_uncancellable
from stage1 import engine
from stage1.errors import NotFound, PodError, TimedOut, WrongState
from stage1.guest import messages
from stage1.linux import beneath, process

log = logging.getLogger("clearpod.container")

LOG_S = 1.0
"""How long a killed container may wait for a log that can't be written."""
BUSY_S = 0.05
FIRST_PAUSE_S, LAST_PAUSE_S = 1.0, 60.0
"""Delay between attempts to remove what a guest did not remove in time."""


async def stop(pod: LivePod, container: LiveContainer, *, grace_s: float) -> None:
    """Return when it is EXITED: the stop signal, once, then `grace_s`, then SIGKILL. Idempotent.

    One that is just being started is stopped when it has been. Raises VmFailed when the VM can't be killed.
    """
    until = time.monotonic() + grace_s
    if container.starting is not None and container.is_starting:
        await asyncio.wait({container.starting}, timeout=grace_s + pod.tools.react_s)
        if container.is_starting:
            return await kill_unresponsive(pod, f"it did not report whether container {container.id} has started")
    if not container.is_running:
        return None
    if grace_s > 0 and pod.is_ready:
        await is_done_within(grace_s, _ask_to_end(pod, container, grace_s=grace_s))
    if not await is_set_within(until - time.monotonic(), container.ended):
        await _kill(pod, container)
    return None


async def remove(pod: LivePod, container: LiveContainer) -> None:
    """Kill it if it runs and remove all of it but its log file."""
    container.removers += 1
    try:
        with pod.work.using_files():
            await _remove(pod, container)
    finally:
        container.removers -= 1


async def discard(pod: LivePod, container: LiveContainer, *, limit_s: float, is_known: bool = False) -> None:
    """Undo `containers.create`. The agent is asked first, since it still uses the bundle; if it does not answer within
    `limit_s`, or is still busy with it, the bundle goes later. Raises PodError when it refuses one that `is_known`.
    """
    is_late = False
    try:
        if pod.is_ready:  # else its VM is about to end, and may not answer
            async with limit(pod, "Delete", limit_s=max(limit_s, UNDO_S)):
                await _delete(pod, container.id)
    except NotFound:
        pass
    except PodError as error:
        is_late = pod.is_ready  # else there is nothing to undo
        if is_late and is_known and not isinstance(error, TimedOut):
            raise
    for stream in (*container.streams(), container.record.stdin):
        pod.forget(stream)
    await run_uncancellable(remove_files, pod, container, has_bundle=not is_late)
    if is_late:
        log.warning("container.late", extra=pod.log_fields(container))
        pod.work.run_in_background(_discard_later(pod, container.id), f"removal of container {container.id}")


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


async def follow_rest(pod: LivePod) -> None:
    """One container less: the VM may run where the others may."""
    try:
        await pod.bind_cpus()
    except PodError as error:
        log.warning("pod.cpus", extra={"pod": pod.id, "title": pod.title, "error": str(error)})


async def _remove(pod: LivePod, container: LiveContainer) -> None:
    until = time.monotonic() + pod.tools.react_s
    await stop(pod, container, grace_s=0)
    async with container.lock:
        if pod.containers.get(container.id) is not container:
            return  # another call has done it meanwhile
        await stop(pod, container, grace_s=0)
        await discard(pod, container, limit_s=until - time.monotonic(), is_known=True)
        if pod.containers.pop(container.id, None) is None:
            return  # the pod was removed meanwhile, and this container with it
        pod.save_soon()
        pod.tell(events.DELETED, container.id)
    await follow_rest(pod)
    if not pod.images.has_window:
        return
    settling = pod.work.run_in_background(pod.images.settle(), f"images after container {container.id}")
    await asyncio.wait({settling}, timeout=max(until - time.monotonic(), 0))


async def _discard_later(pod: LivePod, container_id: str) -> None:
    """Retry to remove a container from its guest. Until that succeeds, the container takes memory of the guest and
    keeps its bundle.
    """
    pauses = backoff(FIRST_PAUSE_S, LAST_PAUSE_S)
    while pod.is_ready:
        await asyncio.sleep(next(pauses))
        try:
            await pod.call(messages.Delete(container_id))
        except NotFound:
            pass
        except PodError:
            continue
        await run_uncancellable(engine.remove_container, pod.directory, container_id)
        await pod.images.settle()
        return


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
