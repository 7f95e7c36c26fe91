# SPDX-License-Identifier: Apache-2.0
"""What a restarted daemon does with one pod of its predecessor: adopts it, or marks it dead.

Called by `recovery`, in the background: the daemon serves meanwhile. The guest is not trusted, nor waited for: it has
`Tools.adopt_timeout_s` for what is needed before the pod can be used, and the number of requests does not depend on its
answers. A pod that can't be adopted stays listed as not ready, with the reason, until it is removed; its VM ends.
"""

import asyncio
import logging
import time
from collections.abc import Iterable
from typing import NamedTuple

from cri.containers import start
from cri.live import outputs
from cri.live.container import LiveContainer
from cri.live.own_kernel import OwnKernel
from cri.live.pod import LivePod
from cri.logs.record import CommitRecord
from cri.pods import resize
from cri.retry import every, retry_while_busy, within
from cri.snapshots import suspension
from cri.store import history
from cri.store import pods as store
from cri.store.history import Fact
from cri.store.recover import ENDED
from cri.threads import retry_while_exhausted
from stage1 import engine
from stage1.errors import NotFound, PodError, VmFailed, WrongState
from stage1.guest import messages
from stage1.pod import states
from stage1.vm import hold

log = logging.getLogger("clearpod.pod")

ORPHANS_S = 60.0
"""How long the guest may take to remove orphans. No call waits for it."""
BUSY_S, BUSY_STEP_S = 30.0, 0.1
"""How long of that a request of the last daemon's is waited for, and the pause between tries."""


class Orphans(NamedTuple):
    """What the previous daemon was creating when it ended: containers in the guest, and bundles on the host, without
    a record.
    """

    containers: tuple[str, ...] = ()
    bundles: tuple[str, ...] = ()


def restore(pod: LivePod, stored: store.Stored) -> None:
    """Take the state from the file of the previous daemon. Blocks: it opens logs.

    Raises PodError, OSError or ValueError: see `mark_unusable`.
    """
    pod.status = stored.status
    pod.unused_id = stored.status.ids + 1
    pod.network = engine.network(pod.directory)
    for one in stored.containers:
        status = _sane(one.status, one.record.created_ns)
        place = pod.record.log_directory
        container = LiveContainer(one.record, pod.directory, log_directory=place, status=status)
        container.log.open()
        pod.containers[container.id], container.tell = container, pod.tell
        outputs.follow(pod, container)


def forget_containers(pod: LivePod) -> None:
    """Undo `restore`, which failed: the pod is listed without containers."""
    for container in pod.containers.values():
        container.log.close()
    pod.containers.clear()


def _sane(status: store.ContainerState, created_ns: int) -> store.ContainerState:
    """Plausible times and codes, also when an earlier version stored a guest's unchecked, or the clock was set back."""
    latest = max(time.time_ns(), created_ns)
    started, finished = (min(max(at, 0), latest) for at in (status.started_ns, status.finished_ns))
    return status._replace(started_ns=started, finished_ns=finished, exit_code=status.exit_code & 0xFF)


def mark_unusable(pod: LivePod, why: str) -> None:
    """The pod is not ready any more, from now on; `mark_dead` does the rest."""
    state = pod.status.state if pod.status.state == states.DEAD else states.STOPPING
    pod.status = pod.status._replace(state=state, why=pod.status.why or why)
    pod.note(Fact(history.LOST, text=why))


def give_up_starts(pod: LivePod) -> None:
    """What was just being started has nobody who waits for it: its client has got an error."""
    for container in pod.containers.values():
        if container.status.is_asked:
            container.start_failed("clearpod ended before the container had started")


async def adopt(pod: LivePod) -> Orphans:
    """The VM lives: watch it, meet its agent again, learn what happened meanwhile; if that fails, mark it dead."""
    begun, orphans, why = time.monotonic(), Orphans(), ""
    try:
        async with asyncio.timeout(pod.tools.adopt_timeout_s) as pod.adopting:
            orphans = await _take_over(pod)
            for container in pod.containers.values():
                start.end_soon(pod, container)
    except TimeoutError:
        why = f"its guest did not answer within {time.monotonic() - begun:.0f} s"
    except Exception as error:  # noqa: BLE001 - whatever it is: a pod whose VM may live is not forgotten
        why = str(error)
    finally:
        pod.adopting = None
    if not why:
        log.info("pod.adopted", extra={"pod": pod.id, "title": pod.title, "containers": len(pod.containers)})
        return orphans
    log.error("pod.lost", extra={"pod": pod.id, "title": pod.title, "error": why})
    mark_unusable(pod, f"{pod.title} could not be adopted when clearpod restarted: {why}")
    await mark_dead(pod)
    return Orphans()


async def _take_over(pod: LivePod) -> Orphans:
    if pod.status.is_own:
        return await _take_over_own(pod)
    if await suspension.adopt(pod):
        pod.note(Fact(history.ADOPTED))
        return Orphans()
    vm = await retry_while_exhausted(engine.recorded_vm, pod.directory)
    if vm is None:
        raise VmFailed(f"there is no record of the VM of {pod.title}")
    if await retry_while_exhausted(hold.is_held, pod.directory):
        await asyncio.to_thread(hold.go_on, vm, pod.directory)  # the disk guard holds it again if it must
    pod.watch(vm)
    await pod.meet(pod.tools.adopt_timeout_s)
    await suspension.mount_again(pod)
    reply = await pod.call(messages.List())
    unknown = _reconcile(pod, reply.containers)
    bundles = set(await retry_while_exhausted(engine.bundles, pod.directory)) - pod.names.guests()
    await pod.loopback.reopen(pod.record.pod, pod.ips)
    await _follow_processors(pod)
    pod.gate.run_in_background(resize.keep_space(pod), f"room for the VM of {pod.title}")
    pod.save_soon()
    pod.note(Fact(history.ADOPTED))  # written with what is saved next: a restart alone writes no file of a pod
    pod.require_ready()
    return Orphans(unknown, tuple(bundles - set(pod.containers)))


async def _take_over_own(pod: LivePod) -> Orphans:
    """Adopt a pod without an agent, whose VM may have ended."""
    vm = await retry_while_exhausted(engine.recorded_vm, pod.directory)
    if vm is not None and await retry_while_exhausted(hold.is_held, pod.directory):
        await asyncio.to_thread(hold.go_on, vm, pod.directory)
    successor = OwnKernel(pod)
    await pod.part_from_guest(successor)
    await successor.adopt()
    await _follow_processors(pod)
    pod.note(Fact(history.ADOPTED))
    return Orphans()


async def _follow_processors(pod: LivePod) -> None:
    """The last daemon may have bound its VMM: bind it to the processors of the containers that there are."""
    try:
        await pod.bind_cpus(anew=True)
    except WrongState as error:
        log.warning("pod.cpus", extra={"pod": pod.id, "title": pod.title, "error": str(error)})


async def remove_orphans(pod: LivePod, orphans: Orphans) -> None:
    """Remove them. What can't be removed stays until the pod is removed, and is logged."""
    if not pod.is_ready or pod.is_suspended:
        return
    try:
        async with asyncio.timeout(ORPHANS_S):
            await _remove(pod, orphans.containers, bundles=orphans.bundles)
            await pod.images.settle()
    except (PodError, OSError, TimeoutError) as error:
        what = str(error) or f"its guest did not answer within {ORPHANS_S:g} s"
        log.warning("pod.cleanup_failed", extra={"pod": pod.id, "title": pod.title, "error": what})


def _reconcile(pod: LivePod, listed: Iterable[messages.Container]) -> tuple[str, ...]:
    """Bring the pod's containers to what the guest's agent listed; returns those that only the guest knows.

    Its word is taken for states and exits of containers that we made. One that only the guest knows, or that only has a
    bundle, was being made when the daemon ended, and is removed.
    """
    known = {one.id: one for one in listed}
    for container in pod.containers.values():
        container.reconcile(known.pop(container.id, None))
    return tuple(known.keys() - {one.guest_id for one in pod.status.waiting})


async def _remove(pod: LivePod, containers: Iterable[str], *, bundles: Iterable[str]) -> None:
    """Remove containers from the guest, then bundles that it does not use any more.

    What the guest does not remove keeps its bundle, and takes no more than its own guest's memory. Raises PodError.
    """
    kept = set(await asyncio.gather(*(_delete(pod, one) for one in containers)))
    for bundle in set(bundles) - kept:
        await asyncio.to_thread(_remove_files, pod.directory, bundle)


def _remove_files(directory: str, container: str) -> None:
    engine.remove_container(directory, container)
    CommitRecord(directory, container).remove()


async def _delete(pod: LivePod, container: str) -> str:
    """The container's id if it may still be there, else nothing."""
    try:
        # What the last daemon asked for may still be under way: the agent refuses until it is done.
        await retry_while_busy(lambda: pod.call(messages.Delete(container)), every(BUSY_STEP_S, within(BUSY_S)))
    except NotFound:
        return ""
    except PodError as error:
        log.warning("pod.cleanup_failed", extra={**pod.log_fields(), "container": container, "error": str(error)})
        return container
    return ""


async def mark_dead(pod: LivePod) -> None:
    """The VM is gone, or must go: the pod stays listed as not ready, with the exit of its containers.

    A VM that can't be ended now is tried again when the pod is stopped or removed.
    """
    try:
        pod.vm = pod.vm or await asyncio.to_thread(engine.find_vm, pod.directory)
        if pod.vm is not None:
            await asyncio.to_thread(pod.vm.kill)
        await pod.end_rest()
    except (PodError, OSError) as error:
        log.error("pod.kill_failed", extra={"pod": pod.id, "title": pod.title, "error": str(error)})
    await pod.detach(ENDED)
    for container in list(pod.containers.values()):
        try:
            async with container.lock:
                await asyncio.to_thread(engine.remove_container, pod.directory, container.id)
        except (PodError, OSError) as error:
            log.error("pod.cleanup_failed", extra={**pod.log_fields(container), "error": str(error)})
