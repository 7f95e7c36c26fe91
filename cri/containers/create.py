# SPDX-License-Identifier: Apache-2.0
"""How a container is created; `start` has its start, `stop` its end, `order` which calls are possible in which state.
Called by the RPCs with a pod of the table. Each function completes or rolls back.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from cri import events
from cri.containers import capacity, claim, leaving
from cri.containers.discard import discard, remove_files
from cri.containers.stop import follow_rest
from cri.live import outputs, own_kernel
from cri.live.container import LiveContainer
from cri.live.deadlines import limit
from cri.live.images import Root, RootRequest
from cri.live.pod import LivePod
from cri.store import history
from cri.store.history import Fact
from cri.store.pods import ContainerRecord
from cri.threads import UNDO_S, run_uncancellable
from stage1 import engine, own
from stage1.errors import Unsupported, WrongState
from stage1.guest import messages
from stage1.pod import guest_volumes, oci, states
from stage1.pod.own_kernel import OwnKernel
from stage1.pod.own_values import Asked
from stage1.rootfs import identity


@asynccontextmanager
async def image_held(pod: LivePod, request: RootRequest) -> AsyncIterator[Root]:
    """Bring the image of a container that is about to be made into the guest, and those that are its volumes. They stay
    there when a container uses them at the end.

    The whole block may take as long as a call; raises TimedOut then, WrongState unless the pod is ready.
    """
    pod.require_ready()
    with pod.gate.using_files():
        async with limit(pod, "CreateContainer"), pod.images.held(request) as root:
            for volume in root.volumes:
                await pod.images.export(volume)
            yield root


@asynccontextmanager
async def kernel_held(pod: LivePod, request: RootRequest) -> AsyncIterator[Root]:
    """The same for a container whose image brings the kernel: nothing in it is for a guest."""
    pod.require_ready()
    with pod.gate.using_files():
        async with limit(pod, "CreateContainer"):
            yield await pod.images.to_boot(request)


def held(pod: LivePod, request: RootRequest, *, kernel: OwnKernel) -> AbstractAsyncContextManager[Root]:
    """Which of the two a container needs whose image brings `kernel`, or none."""
    return kernel_held(pod, request) if kernel.path else image_held(pod, request)


async def create(pod: LivePod, planned: ContainerRecord, *, root: Root, policy: bytes = b"") -> str:
    """Make the container `planned` with a `root` that is held, as plugins adjust it, and return its id. Its guest's
    kernel loads the AppArmor `policy`, if any. Rolled back when it fails.
    """
    async with pod.tools.hooks.creating(pod, planned) as adjusted:
        window_image = root.lower if root.in_window else ""
        record = _with_streams(adjusted, pod)._replace(window_image=window_image, image_way=root.source)
        if pod.record.pod.suspend:
            has_boot_id = await asyncio.to_thread(identity.has_boot_id, pod.directory)
            container = guest_volumes.with_pod_files(record.container, pod.directory, has_boot_id=has_boot_id)
            record = record._replace(container=container)
        if former := claim.find(pod, record):
            return await claim.claim(pod, record, former=former)
        return await _create(pod, record, root=root, policy=policy)


async def _create(pod: LivePod, record: ContainerRecord, *, root: Root, policy: bytes) -> str:
    if not pod.hello.volumes:  # a guest that an earlier version booted: it has the image's volumes in its root
        record = record._replace(container=record.container._replace(volumes=()))
    if (raw := oci.is_raw(record.container.process)) and not pod.hello.raw:
        raise Unsupported(
            f"{pod.title} was booted by an earlier version, whose guest accepts only UTF-8 in environment "
            "variables; delete the pod, so that it is created again"
        )
    is_served = not pod.record.pod.host and any(one.is_of_host for one in record.container.mounts)
    has_volumes = record.container.has_guest_volumes or is_served
    if has_volumes and not pod.hello.guest_volumes:
        raise Unsupported(
            f"{pod.title} runs in a guest of an earlier version, which does not support guest volumes; build the "
            "guest of this version and delete the pod, so that it is created again"
        )
    begun_ns = time.time_ns()
    await leaving.end(pod)
    await capacity.make(pod)
    target = _target_pid(pod, record)
    if record.kernel.path:
        await _take_over(pod, record, lower=root.lower)
    container = LiveContainer(record, pod.directory, log_directory=pod.record.log_directory)
    try:
        await run_uncancellable(_make_files, pod, container, target=target, policy=policy)
    except BaseException:
        await run_uncancellable(remove_files, pod, container)
        raise
    finally:
        if is_served:
            await pod.find_server()
    try:
        container.log.require_file()
        await pod.bind_cpus(record)
        for stream, consumer in container.consumers(pod.agent.consumed).items():
            pod.agent.listen(stream, consumer)
        stdio = messages.Stdio(record.stdin, record.stdout, record.stderr, record.container.process.tty)
        tmpfs = not pod.tools.host.scratch_mib
        volumes = record.container.volumes
        create = messages.Create(
            container.id, root.lower, tmpfs, stdio, root.in_window, volumes=volumes, raw=raw,
            guest_volumes=has_volumes, apparmor=bool(policy),
        )  # fmt: skip
        await pod.call(create)
        pod.require_ready()
        pod.containers[container.id], container.tell = container, pod.tell
        outputs.follow(pod, container)
        name = record.container.name
        pod.note(Fact(history.IMAGE, begun_ns, root.took_ns, subject=name, text=root.source))
        pod.note(Fact(history.CREATED, took_ns=time.time_ns() - begun_ns, subject=name))
        pod.save()
        pod.tell(events.CREATED, container.id)
    except BaseException:
        pod.containers.pop(container.id, None)
        await discard(pod, container, limit_s=UNDO_S)
        await follow_rest(pod)
        raise
    return container.id


def _make_files(pod: LivePod, container: LiveContainer, *, target: int, policy: bytes) -> None:
    """The bundle and the log, in one thread. Blocks. Undo: `remove_files`."""
    record = container.record
    if not record.kernel.path:
        engine.add_container(
            pod.directory, pod.record.pod, container=record.container, target_pid=target, policy=policy
        )
    container.log.open(is_new=True)


def require_alone(pod: LivePod, kernel: OwnKernel, *, image: str) -> None:
    """A kernel of its own has its pod for itself. Raises Unsupported."""
    living = [one.record.container.name for one in pod.containers.values() if one.status.state != states.EXITED]
    if kernel.path and living:
        raise Unsupported(
            f"the image {image} has a kernel of its own, which can't run together with the container {living[0]}: "
            "such a pod has only one container"
        )
    if pod.status.is_own and not kernel.path:
        raise Unsupported(
            f"{pod.title} has no guest but a kernel of its own, so the image {image}, which has none, can't run "
            "there: such a pod has only one container"
        )
    if kernel.path and (pod.record.pod.host or pod.record.pod.ids.length):
        raise Unsupported(
            f"the image {image} has a kernel of its own, which can't run in namespaces of the host or in a user "
            "namespace"
        )


async def _take_over(pod: LivePod, record: ContainerRecord, *, lower: str) -> None:
    """End the guest that the pod was booted with, so that the container's kernel takes its place; only after that
    kernel was found to be bootable.
    """
    process = record.container.process
    boot = own.Boot(record.kernel, lower, Asked(process.argv, process.env))
    await run_uncancellable(own.check, pod.record.pod, pod.tools.host, boot=boot, network=pod.network)
    require_alone(pod, record.kernel, image=record.image_ref)
    await own_kernel.take_over(pod)


def _with_streams(record: ContainerRecord, pod: LivePod) -> ContainerRecord:
    what = record.container.process
    return record._replace(
        stdin=pod.next_id() if what.stdin else 0,
        stdout=pod.next_id(),
        stderr=0 if what.tty else pod.next_id(),
    )


def _target_pid(pod: LivePod, record: ContainerRecord) -> int:
    """The guest's pid of the container whose pid namespace is joined; 0 when none is asked for."""
    kind, _, target_id = record.container.security.pid_namespace.partition(":")
    if kind != "target":
        return 0
    target = pod.containers.get(target_id)
    if target is None or not target.is_running:
        raise WrongState(
            f"container {target_id}, whose processes should be shared, is not running in this pod; start it first"
        )
    return target.guest_pid
