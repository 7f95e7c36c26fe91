# SPDX-License-Identifier: Apache-2.0
"""Containers of a copied pod: a running container of the original is frozen in the copied guest, becomes the container
that is created under its name, and continues where it was when that is started.

Called by `create` for all kinds of copies: of a running pod, of a checkpoint, of a named snapshot. It has the
original's program, arguments and environment; all else that was decided of it (`cri.snapshots.decided`) must be asked
for as the original has it. Its limits, and the contents of its files that the guest keeps (config maps, tokens,
/etc/hosts), are the new ones before it goes on.
"""

import asyncio
import signal
from typing import TYPE_CHECKING

from cri import events
from cri.containers import limits
from cri.containers.discard import remove_files
from cri.live import outputs
from cri.live.container import LiveContainer
from cri.policy import COPY_SIGNAL
from cri.snapshots import copies, decided
from cri.store import history
from cri.store.history import Fact
from cri.store.pods import ContainerRecord, ContainerState, SavedContainer
from cri.threads import run_uncancellable
from stage1 import engine
from stage1.errors import PodError, WrongState
from stage1.guest import messages
from stage1.linux import beneath

if TYPE_CHECKING:
    from cri.live.pod import LivePod


def find(pod: "LivePod", planned: ContainerRecord) -> SavedContainer | None:
    """The container of the original that is meant by `planned`, the first attempt at one of that name. Raises
    WrongState when that is asked to be something else than it is in its guest.
    """
    name = planned.container.name
    former = next((one for one in pod.status.waiting if one.name == name), None)
    if former is None:
        return None
    asked = decided.of_container(planned, guest_ids=copies.guest_ids(pod))
    if other := decided.difference(former.decided, asked):
        field, was, now = other
        raise WrongState(
            f"container {name} of the original has {field} {was}, and {now} is asked for; a copy keeps its original's"
        )
    return former


async def claim(pod: "LivePod", planned: ContainerRecord, *, former: SavedContainer) -> str:
    """Make the waiting container `former` the one that is `planned`, CREATED and frozen; its id. Rolled back when it
    fails: it waits again.
    """
    record = planned._replace(
        guest_id=former.guest_id,
        stdin=former.stdin,
        stdout=former.stdout,
        stderr=former.stderr,
        window_image=former.window_image,
        image_way="in the copied guest",
    )
    status, waiting = ContainerState(is_held=True), pod.status.waiting
    container = LiveContainer(record, pod.directory, log_directory=pod.record.log_directory, status=status)
    try:
        await run_uncancellable(_make_files, pod, container)
        container.log.require_file()
        pod.containers[container.id], container.tell = container, pod.tell
        pod.status = pod.status._replace(waiting=tuple(one for one in waiting if one is not former))
        await _take_over(pod, container)
        if former.limits != (record.container.limits,):
            await limits.renew(pod, container)
        pod.require_ready()
        outputs.follow(pod, container)
        pod.note(Fact(history.CREATED, subject=record.container.name))
        pod.save()
        pod.tell(events.CREATED, container.id)
    except BaseException:
        pod.containers.pop(container.id, None)
        pod.status = pod.status._replace(waiting=waiting)
        await run_uncancellable(remove_files, pod, container)
        raise
    return container.id


async def _take_over(pod: "LivePod", container: LiveContainer) -> None:
    """Connect a container that runs in the copied guest with this pod: its volumes, its CPUs and its log. Raises
    WrongState when it has ended.
    """
    renewed = (messages.Update(container.id),) if container.record.container.has_guest_volumes else ()
    reply, *_ = await asyncio.gather(*(pod.call(op) for op in (messages.List(), *renewed)))
    listed = next((one for one in reply.containers if one.id == container.id), None)
    if listed is None or listed.state != messages.RUNNING:
        raise WrongState(f"container {container.record.container.name} has ended in the copied guest; delete the pod")
    container.guest_pid = listed.pid
    await pod.bind_cpus(container.record)
    for stream, consumer in container.consumers(pod.agent.consumed).items():
        pod.agent.listen(stream, consumer)


def _make_files(pod: "LivePod", container: LiveContainer) -> None:
    """The guest knows its bundle by the id that the container has there. Blocks. Undo: `remove_files`."""
    engine.add_container(pod.directory, pod.record.pod, container=container.record.container)
    with beneath.Root(pod.directory, one_mount=True) as own:
        own.unlink(engine.bundle(container.record.guest_id))  # of a daemon that was killed just then
        own.link(engine.bundle(container.record.guest_id), container.id)
    container.log.open(is_new=True)


async def go_on(pod: "LivePod", container: LiveContainer) -> None:
    """Send its first process the signal that the pod has configured, and unfreeze all of them. Raises PodError.

    The signal waits for the thaw: it then interrupts the call in which the process was frozen. One that came after the
    thaw could arrive between two instructions, before such a call, which then sleeps on.
    """
    if name := pod.config.annotations.get(COPY_SIGNAL, ""):
        try:
            await pod.call(messages.Signal(container.id, 0, signal.Signals[name]))
        except PodError as error:
            subject = container.record.container.name
            pod.note(Fact(history.FAILED, subject=subject, reason="StartContainer", text=str(error)))
    await pod.call(messages.Freeze(container.id, thaw=True))
    container.went_on()
