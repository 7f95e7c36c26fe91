# SPDX-License-Identifier: Apache-2.0
"""Containers of a copied pod: a running container of the original is frozen in the copied guest, becomes the container
that is created under its name, and continues where it was when that is started.

Called by `create`. It has the original's program, arguments, environment and mounts; the contents of its files that the
guest keeps (config maps, tokens, /etc/hosts) are the new ones before it goes on.
"""

import asyncio
import signal
from operator import attrgetter
from typing import TYPE_CHECKING

from google.protobuf.message import DecodeError

from cri import events
from cri.containers.discard import remove_files
from cri.live import outputs, suspension
from cri.live.container import LiveContainer
from cri.pb import runtime_pb2 as pb
from cri.policy import COPY_SIGNAL
from cri.store import history
from cri.store.history import Fact
from cri.store.pods import ContainerRecord, ContainerState
from cri.threads import run_uncancellable
from stage1 import engine
from stage1.errors import PodError, WrongState
from stage1.guest import messages
from stage1.linux import beneath
from stage1.pod.model import BOOT_ID_SEEN_AT

if TYPE_CHECKING:
    from collections.abc import Callable

    from cri.live.pod import LivePod


STREAMS = ("tty", "stdin", "stdin_once")
"""Fields of a ContainerConfig that a container has in its guest, and can't change."""
_RIGHTS: "dict[str, Callable[[pb.ContainerConfig], object]]" = {
    "privileged": lambda config: config.linux.security_context.privileged,
    "devices": lambda config: sorted(one.container_path for one in config.devices),
}
"""What decides what it may do in its guest: who asks for less must not get more, nor the other way round."""
_MOST_DEVICES = 64
_SHOWN = 400
"""Characters of a list of mounts in a sentence."""


def find(pod: "LivePod", planned: ContainerRecord) -> ContainerRecord | None:
    """The container of the original that is meant by `planned`, the first attempt at one of that name. Raises
    WrongState when it is another one.
    """
    name = planned.container.name
    former = next((one for one in pod.status.waiting if one.container.name == name), None)
    if former is None:
        return None
    if former.image_id != planned.image_id:
        raise WrongState(
            f"container {name} of the original has the image {former.image_id}, and {planned.image_id} was requested; "
            "a copy keeps its original's image"
        )
    if _places(former) != _places(planned):
        raise WrongState(
            f"container {name} of the original has mounts at {_shown(former) or 'no place'}, and "
            f"{_shown(planned) or 'none'} were requested; a copy keeps its original's mounts"
        )
    _compare_fixed(former, planned)
    return former


def _compare_fixed(former: ContainerRecord, planned: ContainerRecord) -> None:
    """Raises WrongState: its terminal, or that it has none, is in the guest, and what its processes may do."""
    name = planned.container.name
    try:
        was, now = (pb.ContainerConfig.FromString(one.config) for one in (former, planned))
    except DecodeError:
        raise WrongState(f"the record of container {name} of the original is damaged") from None
    fixed = {one: attrgetter(one) for one in STREAMS} | _RIGHTS
    for field, value in fixed.items():
        if value(was) != value(now):
            raise WrongState(
                f"container {name} of the original has {field} {_short(value(was))}, and {_short(value(now))} is asked "
                "for; a copy keeps its original's"
            )


def fixed_part(config: pb.ContainerConfig) -> pb.ContainerConfig:
    """Return what `find` compares of a configuration, which is little."""
    devices = [pb.Device(container_path=one.container_path[:_SHOWN]) for one in config.devices[:_MOST_DEVICES]]
    result = pb.ContainerConfig(**{name: getattr(config, name) for name in STREAMS}, devices=devices)
    if config.linux.security_context.privileged:
        result.linux.security_context.privileged = True
    return result


def _short(value: object) -> str:
    """Return the value for a sentence."""
    return (", ".join(value) or "none" if isinstance(value, list) else str(value))[:_SHOWN]


def _places(record: ContainerRecord) -> list[str]:
    return [mount.target for mount in record.container.mounts if mount.target != BOOT_ID_SEEN_AT]


def _with_mounts_of(former: ContainerRecord, planned: ContainerRecord) -> ContainerRecord:
    """An original of an earlier version has no boot id of its own, and so its guest has no place for one."""
    there = {mount.target for mount in former.container.mounts}
    mounts = tuple(mount for mount in planned.container.mounts if mount.target in there)
    return planned._replace(container=planned.container._replace(mounts=mounts))


def _shown(record: ContainerRecord) -> str:
    return ", ".join(_places(record))[:_SHOWN]


async def claim(pod: "LivePod", planned: ContainerRecord, *, former: ContainerRecord) -> str:
    """Make the waiting container `former` the one that is `planned`, CREATED and frozen; its id. Rolled back when it
    fails: it waits again.
    """
    record = _with_mounts_of(former, planned)._replace(
        guest_id=former.guest_id,
        stdin=former.stdin,
        stdout=former.stdout,
        stderr=former.stderr,
        window_image=former.window_image,
        image_way=f"{former.image_way}, in the copied guest",
    )
    status, waiting = ContainerState(is_held=True), pod.status.waiting
    container = LiveContainer(record, pod.directory, log_directory=pod.record.log_directory, status=status)
    try:
        await run_uncancellable(_make_files, pod, container)
        container.log.require_file()
        pod.containers[container.id], container.tell = container, pod.tell
        pod.status = pod.status._replace(waiting=tuple(one for one in waiting if one is not former))
        await _take_over(pod, container)
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
    """Unfreeze its processes, and send the first one the signal that the pod has configured. Raises PodError."""
    await pod.call(messages.Tune(suspension.FREEZE, "0", container.id))
    container.went_on()
    if name := pod.config.annotations.get(COPY_SIGNAL, ""):
        try:
            await pod.call(messages.Signal(container.id, 0, signal.Signals[name]))
        except PodError as error:
            subject = container.record.container.name
            pod.note(Fact(history.FAILED, subject=subject, reason="StartContainer", text=str(error)))
