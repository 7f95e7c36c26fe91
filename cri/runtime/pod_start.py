# SPDX-License-Identifier: Apache-2.0
"""The start of a pod, for RunPodSandbox, ForkPod and RestorePod: from the record of what was asked for to a pod that is
READY and listed, or to nothing.
"""

from collections.abc import Callable

from cri import events
from cri.live import boot
from cri.live.pod import LivePod
from cri.node import Node
from cri.pb.runtime_pb2 import PodSandboxConfig
from cri.pods.table import pod_name
from cri.policy import FORK_OF, SNAPSHOT
from cri.recorder import POD_STARTS
from cri.snapshots import copies
from cri.snapshots.copies import Origin
from cri.store.pods import PodRecord
from stage1.errors import TimedOut, Unsupported, VmFailed
from stage1.pod.model import KERNEL_OF_IMAGE


def _ignore(pod: LivePod) -> None:
    """Do nothing: the callback where none is given."""


async def run(
    node: Node,
    record: PodRecord,
    *,
    request: bytes,
    origin: Origin | None = None,
    failed: Callable[[LivePod], None] = _ignore,
) -> str:
    """Start a pod, as a copy of `origin` if there is one, list it, and return its id: that of the pod there is already
    if the same `request` made it. `failed` gets a pod that had begun and was removed again.

    Raises AlreadyExists for a name (see `cri.pods.names`) or a host port that is taken, NoSpace at the limit,
    WrongState for a disk in use, and what the ways of `_start` raise.
    """
    pods, name = node.pods, pod_name(record)
    await pods.recovery.freed(name)
    if made := await pods.names.repeated(name, request):
        return made
    with pods.names.reserved(name, request) as reservation:
        await pods.require_resources(record.pod)
        try:
            with pods.place(), pods.pool.starting():
                pod = await _start(node, record, origin=origin, failed=failed)
        except BaseException:
            pods.tools.recorder.count(POD_STARTS, "failed")
            raise
        pod.tell(events.CREATED)
        pod.tell(events.STARTED)
        reservation.keep(pod.id)
    return pod.id


async def _start(node: Node, record: PodRecord, *, origin: Origin | None, failed: Callable[[LivePod], None]) -> LivePod:
    """The four ways to a pod that is READY: as a copy, without a VM yet, in a VM of the pool, in a VM that boots. No
    await comes before `listed`: the pod counts from there on for what `require_resources` has compared.
    """
    pods, annotations = node.pods, PodSandboxConfig.FromString(record.config).annotations
    snapshot, original = annotations.get(SNAPSHOT, ""), annotations.get(FORK_OF, "")

    # A copy: of what ForkPod or RestorePod has, of a named snapshot, or of a pod that runs.
    if origin or snapshot or original:
        pod = pods.new(record)
        async with pods.listed(pod, failed=failed):
            if origin:
                await copies.bring_up(pod, origin)
            elif snapshot:
                await node.snapshots.bring_up(pod, snapshot)
            else:
                await _fork(node, pod, original=original)
        return pod

    # Its kernel is in the image of its container, and is booted when that is started.
    if record.pod.kernel == KERNEL_OF_IMAGE and not record.pod.host:
        pod = pods.new(record)
        async with pods.listed(pod, failed=failed):
            await boot.without_guest(pod)
        return pod

    # A VM of the pool, or the next one if that turns out to be dead.
    while slot := pods.pool.claim(record.pod):
        mine = record._replace(pod=record.pod._replace(id=slot.id))
        try:
            async with pods.listed(slot, failed=failed):
                await boot.claim(slot, mine, tools=pods.tools)
            return slot
        except Unsupported as error:
            await pods.pool.disable(error)
        except (VmFailed, TimedOut) as error:
            pods.pool.report_dead(error)

    # A VM of its own: a copy of a template where there is one; a pod never fails because of that.
    pod = pods.new(record)
    try:
        async with pods.listed(pod, failed=failed):
            await boot.boot(pod)
    except boot.CopyFailed:
        pod = pods.new(record)
        async with pods.listed(pod, failed=failed):
            await boot.boot(pod, as_copy=False)
    return pod


async def _fork(node: Node, pod: LivePod, *, original: str) -> None:
    """Bring the pod up as a copy of the pod with the name or id `original`: its VM starts while that is saved. Raises
    what `copies.original`, `require_forkable`, `fork` and `bring_up` raise.
    """
    former = copies.original(node.pods.pods(), original, namespace=pod.record.pod.namespace)
    await node.pods.adopted(former.id, "")  # a daemon that has just begun does not know its guest yet
    await copies.require_forkable(former)
    async with copies.being_forked(former, node.images, name=pod.id) as origin:
        await copies.bring_up(pod, origin)
