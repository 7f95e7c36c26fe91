# SPDX-License-Identifier: Apache-2.0
"""What is done to one container: create, start, stop, remove. Contract section 4 has the table of what is
allowed when.

Called by the RPCs with a pod of the table. Each function finishes or leaves things as they were.
"""

import asyncio
import logging
import time
from collections.abc import Callable

from cri import events
from cri.pods import rooms
from cri.pods.container import LiveContainer
from cri.pods.images import Accounts as Accounts
from cri.pods.images import Root
from cri.pods.pod import LivePod
from cri.pods.threads import to_the_end
from cri.store.pods import ContainerRecord
from stage1 import engine
from stage1.errors import NoCommand, NotFound, PodError, TimedOut, WrongState
from stage1.guest import messages
from stage1.linux import process
from stage1.pod import states
from stage1.rootfs.share import ImageFiles

log = logging.getLogger("clearpod.container")

KILL_S = 10.0
"""How long a container may take to end after SIGKILL."""


Plan = Callable[[Accounts], ContainerRecord]


async def create(pod: LivePod, image: ImageFiles, *, plan: Plan, volumes: tuple[ImageFiles, ...] = ()) -> str:
    """Make a container from `plan` (which gets the image's accounts, and may look at files) and return its id.

    `volumes` are the images that are mounted into it. Nothing stays when it fails.
    """
    pod.require_ready()
    async with pod.images.held(image) as root:
        for volume in volumes:
            await pod.images.export(volume)
        async with pod.tools.hooks.creating(pod, await to_the_end(plan, root.accounts)) as planned:
            record = _with_streams(planned, pod)._replace(
                window_image=root.lower if root.in_window else "", image_way=root.way
            )
            return await _create(pod, record, root=root)


async def _create(pod: LivePod, record: ContainerRecord, *, root: Root) -> str:
    if not pod.hello.volumes:  # a guest that an earlier version booted: it has the image's volumes in its root
        record = record._replace(container=record.container._replace(volumes=()))
    await rooms.make(pod)
    target = _target_pid(pod, record)
    await to_the_end(engine.add_container, pod.directory, pod.record.pod, container=record.container, target_pid=target)
    container = LiveContainer(record, pod)
    try:
        await to_the_end(container.log.open)
        container.log.require_file()
        await pod.cpus.follow(pod, record)
        for stream, consumer in container.consumers(pod.agent.consumed).items():
            pod.agent.listen(stream, consumer)
        stdio = messages.Stdio(record.stdin, record.stdout, record.stderr, record.container.process.tty)
        tmpfs = not pod.tools.host.scratch_mib
        volumes = record.container.volumes
        create = messages.Create(container.id, root.lower, tmpfs, stdio, root.in_window, volumes=volumes)
        await pod.call(create)
        pod.require_ready()
        pod.containers[container.id], container.tell = container, pod.tell
        pod.save()
        pod.tell(events.CREATED, container.id)
    except BaseException:
        pod.containers.pop(container.id, None)
        await _discard(pod, container)
        await _follow_rest(pod)
        raise
    return container.id


async def start(pod: LivePod, container: LiveContainer) -> None:
    """Run it. Raises WrongState unless CREATED; a command that can't be run leaves EXITED, 128, StartError."""
    async with container.lock:
        if container.status.state != states.CREATED:
            raise WrongState(f"container {container.id} is {container.status.state}; only a created one can be started")
        pod.require_ready()
        try:
            await pod.tools.hooks.starting(pod, container)
            reply = await pod.call(messages.Start(container.id))
        except PodError as error:
            if isinstance(error, NoCommand) or pod.is_ready:
                container.start_failed(str(error))
                pod.keep()
            raise
        container.guest_pid = reply.pid
        container.started()
        pod.keep()
        log.info(
            "container.started",
            extra={"container": container.id, "pod": pod.id, "title": container.record.container.name},
        )


async def stop(pod: LivePod, container: LiveContainer, *, grace_s: float) -> None:
    """Return when it is EXITED: the stop signal, once, then `grace_s`, then SIGKILL. Not running is fine."""
    deadline = time.monotonic() + grace_s
    if not container.is_running or not pod.is_ready:
        return
    if grace_s > 0 and not container.was_asked_to_stop:
        container.was_asked_to_stop = True
        await _signal(pod, container, number=container.record.container.stop_signal, everything=False)
    if grace_s > 0 and await _has_ended(container, deadline - time.monotonic()):
        return
    await _signal(pod, container, number=process.SIGKILL, everything=True)
    if not await _has_ended(container, KILL_S):
        raise TimedOut(f"container {container.id} did not end within {KILL_S:g} s of SIGKILL")


async def remove(pod: LivePod, container: LiveContainer) -> None:
    """Kill it if it runs and remove all of it but its log file."""
    async with container.lock:
        if pod.containers.get(container.id) is not container:
            return  # another call has done it meanwhile
        await stop(pod, container, grace_s=0)
        await _discard(pod, container, is_known=True)
        del pod.containers[container.id]
        pod.keep()
        pod.tell(events.DELETED, container.id)
    await _follow_rest(pod)
    await pod.images.settle()


async def _follow_rest(pod: LivePod) -> None:
    try:
        await pod.cpus.follow(pod)
    except PodError as error:
        log.warning("pod.cpus", extra={"pod": pod.id, "title": pod.title, "error": str(error)})


def _with_streams(record: ContainerRecord, pod: LivePod) -> ContainerRecord:
    what = record.container.process
    return record._replace(
        stdin=pod.next_id() if what.stdin else 0,
        stdout=pod.next_id(),
        stderr=0 if what.tty else pod.next_id(),
    )


def _target_pid(pod: LivePod, record: ContainerRecord) -> int:
    """The guest's pid of the container whose pid namespace is joined; 0 when none is asked for."""
    kind, _, wanted = record.container.security.pid_namespace.partition(":")
    if kind != "target":
        return 0
    target = pod.containers.get(wanted)
    if target is None or not target.is_running:
        raise WrongState(f"container {wanted}, whose processes should be shared, is not running in this pod")
    return target.guest_pid


async def _discard(pod: LivePod, container: LiveContainer, *, is_known: bool = False) -> None:
    """Undo `create`. The agent is asked first, since it still uses the bundle."""
    try:
        await pod.call(messages.Delete(container.id))
    except NotFound:
        pass
    except PodError:
        if is_known and pod.is_ready:  # a dead VM has nothing to undo
            raise
    for stream in (*container.streams(), container.record.stdin):
        pod.forget(stream)
    container.log.close()
    await to_the_end(container.log.remove_record)
    await asyncio.to_thread(engine.remove_container, pod.directory, container.id)


async def _signal(pod: LivePod, container: LiveContainer, *, number: int, everything: bool) -> None:
    try:
        await pod.call(messages.Signal(container.id, 0, number, everything))
    except WrongState:
        return  # it has ended just now, and the word of it is on its way
    except PodError:
        if container.is_running and pod.is_ready:  # else it ended by itself just now
            raise


async def _has_ended(container: LiveContainer, limit_s: float) -> bool:
    try:
        async with asyncio.timeout(max(limit_s, 0)):
            await container.ended.wait()
    except TimeoutError:
        return False
    return True
