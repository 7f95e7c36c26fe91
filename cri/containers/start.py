# SPDX-License-Identifier: Apache-2.0
"""How a container is started, and the end of a start that was given up.

Called by StartContainer, and by the adoption of pods (`end_soon`). kubelet never repeats a failed start, it makes the
next attempt: so a container whose start has failed for it is EXITED at once, and its guest ends what it has of it
(docs/design/recovery.md).
"""

import asyncio
import logging
import math
import time

from cri.containers import claim, hidden, order
from cri.live.container import LiveContainer
from cri.live.deadlines import answer
from cri.live.pod import LivePod
from cri.retry import backoff
from cri.threads import UNDO_S
from stage1.errors import NoCommand, NotFound, PodError, WrongState
from stage1.guest import messages
from stage1.linux import process
from stage1.pod import states

log = logging.getLogger("clearpod.container")

FIRST_PAUSE_S, LAST_PAUSE_S = 0.05, 10.0
"""Delay between attempts to end in the guest what was given up."""
GONE = "the client of StartContainer has gone away before the container had started"


async def start(pod: LivePod, container: LiveContainer) -> None:
    """Run it. Raises WrongState unless CREATED. After every other error, also when the guest does not answer in time or
    the caller is cancelled, it is EXITED, 128, StartError, and the guest ends it, however late it answers.
    """
    order.require(container, "start")
    pod.require_ready()
    container.start_asked_ns = time.time_ns()
    container.starting = pod.gate.run_in_background(_start(pod, container), f"start of container {container.id}")
    try:
        await answer(pod, container.starting, what="StartContainer")
    except BaseException as error:
        _give_up(pod, container, why=str(error) if isinstance(error, PodError) else GONE)
        raise


def _give_up(pod: LivePod, container: LiveContainer, *, why: str) -> None:
    """Nobody waits for the start any more: it has failed, unless it was done."""
    if container.status.state != states.CREATED or pod.containers.get(container.id) is not container:
        return
    container.start_failed(why)
    pod.save_soon()
    if container.is_starting:
        log.warning("container.given_up", extra={**pod.log_fields(container), "error": why})
        pod.gate.run_in_background(_kill(pod, container), f"end of the start of container {container.id}")


async def _start(pod: LivePod, container: LiveContainer) -> None:
    async with container.lock:
        order.require_known(pod, container)
        pod.require_ready()
        try:
            await _run(pod, container)
        except PodError as error:
            container.start_failed(str(error))
            end_soon(pod, container)
            raise
        else:
            end_soon(pod, container)
        finally:
            pod.save_soon()


async def _run(pod: LivePod, container: LiveContainer) -> None:
    """Have the guest run it, unless it is given up before the guest is asked. Raises PodError."""
    await pod.tools.hooks.starting(pod, container)
    await _earlier_ended(pod, container)
    if container.status.state != states.CREATED:
        raise WrongState(f"the start of container {container.id} was given up before the guest was asked")
    container.start_asked()
    pod.save_soon()  # the next daemon has to know: it is nobody's start then
    try:
        if container.status.is_held:
            await claim.go_on(pod, container)
            return
        reply = await pod.call(
            messages.Start(container.id),
            timeout_s=math.inf,
            is_awaited=lambda: container.status.state == states.CREATED,
        )
        container.guest_pid = reply.pid
        container.started()
    except PodError as error:
        explained = await hidden.explained(pod, container.record, error=error)
        if isinstance(explained, NoCommand):
            container.start_answered()
        elif await _runs(pod, container):
            return
        raise explained from None


async def _runs(pod: LivePod, container: LiveContainer) -> bool:
    """Whether the guest lists it as running, or as ended, although it has reported a failure."""
    if not pod.is_ready or container.status.state != states.CREATED:
        return False
    try:
        reply = await pod.call(messages.List(), timeout_s=UNDO_S)
    except PodError:
        return False
    for listed in reply.containers:
        if listed.id == container.id:
            container.reconcile(listed)
    return container.status.state != states.CREATED


async def _earlier_ended(pod: LivePod, container: LiveContainer) -> None:
    """Wait until the guest has ended the attempts whose start was given up: two attempts never run at a time."""
    name = container.record.container.name

    ours = (*pod.containers.values(), *pod.leaving.containers.values())
    for one in ours:
        if one is not container and one.record.container.name == name and one.status.state == states.EXITED:
            await one.start_settled()


async def _kill(pod: LivePod, container: LiveContainer) -> None:
    """Ask the guest at once, which then need not run what it has not run yet. That it is over is seen by `_end`."""
    try:
        await pod.call(messages.Signal(container.id, 0, process.SIGKILL, True))
    except PodError:
        pass


def end_soon(pod: LivePod, container: LiveContainer) -> None:
    """Have the guest end the container, if its start was given up and the guest may run it. Its start lasts till then:
    what waits for that waits for this too.
    """
    if container.status.state == states.EXITED and container.status.is_asked:
        container.starting = pod.gate.run_in_background(_end(pod, container), f"end of container {container.id}")


async def _end(pod: LivePod, container: LiveContainer) -> None:
    """Return when the guest has ended and forgotten it, or there is no guest."""
    pauses = backoff(FIRST_PAUSE_S, LAST_PAUSE_S)
    while pod.is_ready:
        await _kill(pod, container)
        try:
            await pod.call(messages.Delete(container.id))
        except NotFound:
            pass
        except PodError as error:
            if not isinstance(error, WrongState):  # which is said while it is busy with the start
                log.warning("container.late", extra={**pod.log_fields(container), "error": str(error)})
            await asyncio.sleep(next(pauses))
            continue
        container.is_out_of_guest = True
        container.start_answered()
        pod.save_soon()
        return
