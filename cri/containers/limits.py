# SPDX-License-Identifier: Apache-2.0
"""New limits for a container that exists. Called by UpdateContainerResources with a record made by `cri.translate`.

Either all limits are in force, recorded and survive the daemon, or none of them.
"""

import asyncio
import logging
from collections.abc import Callable

from cri.containers import order
from cri.live.container import LiveContainer
from cri.live.deadlines import answer
from cri.live.guest import online
from cri.live.pod import LivePod
from cri.store.pods import ContainerRecord
from cri.threads import run_uncancellable, unless_set
from stage1 import engine
from stage1.errors import PodError, WrongState
from stage1.guest import messages
from stage1.pod.model import Limits
from stage1.rootfs import bundle

log = logging.getLogger("clearpod.limits")


async def update(pod: LivePod, container: LiveContainer, *, make: Callable[[], ContainerRecord]) -> None:
    """Put the limits of the record that `make` gives in force. Raises what that does, WrongState when the container has
    ended, or uses more memory than it may then, and TimedOut, when the guest may still put them in force.
    """
    order.require(container, "update")
    work = pod.gate.run_in_background(_update(pod, container, make=make), f"new limits of container {container.id}")
    await answer(pod, work, what="UpdateContainerResources")


async def _update(pod: LivePod, container: LiveContainer, *, make: Callable[[], ContainerRecord]) -> None:
    async with container.lock:
        order.require_known(pod, container)
        order.require(container, "update")
        pod.require_ready()
        record = make()
        await pod.bind_cpus(record)
        if record == container.record:
            return  # the kubelet's CPU manager repeats this every ten seconds
        try:
            await _wake(pod, limits=record.container.limits)
            await _change(pod, container, limits=record.container.limits)
        except PodError:
            await pod.bind_cpus()
            raise
        container.record = record
        pod.save_soon()
    log.info("container.updated", extra=pod.log_fields(container))


async def _wake(pod: LivePod, *, limits: Limits) -> None:
    """Let as many vCPUs be online as the quota is worth; the pod's sums, which do that too, may leave it out."""
    model = pod.record.pod
    vcpus = min(limits.cpus, model.vcpus)
    if 0 < model.online_vcpus < vcpus:
        await pod.call(online(vcpus))
        pod.record = pod.record._replace(pod=pod.record.pod._replace(online_vcpus=vcpus))


async def _change(pod: LivePod, container: LiveContainer, *, limits: Limits) -> None:
    if limits == container.record.container.limits:
        return  # what is new is nothing for the guest
    order.require_agent(container, "to change limits")
    if container.is_running:
        over = WrongState(f"container {container.id} has exited meanwhile; its limits can't be changed any more")
        await unless_set(container.ended, _put_in_force(pod, container, limits=limits), otherwise=over)
    else:
        await run_uncancellable(bundle.change_limits, pod.directory, engine.bundle(container.id), limits=limits)


async def _put_in_force(pod: LivePod, container: LiveContainer, *, limits: Limits) -> None:
    if limits.memory != container.record.container.limits.memory:
        await _require_memory(pod, container, limits=limits)
    await _apply(pod, container, limits=limits)


async def renew(pod: LivePod, container: LiveContainer) -> None:
    """Put the limits of a container of a copy in force, whose guest has those of the original. Raises WrongState when
    it uses more memory than it may now.
    """
    limits = container.record.container.limits
    await _wake(pod, limits=limits)
    await _require_memory(pod, container, limits=limits)
    await _ask(pod, container, limits=_explicit(limits))


async def _require_memory(pod: LivePod, container: LiveContainer, *, limits: Limits) -> None:
    """The kernel would kill what does not fit."""
    if limits.memory <= 0:
        return
    sample = await answer(pod, pod.meter.current(), what="how much memory is used")
    one = sample.containers.get(container.id)
    used = one.memory.working_set if one and one.memory else 0
    if used > limits.memory:
        raise WrongState(
            f"container {container.id} uses {used} bytes of memory, more than the new limit of {limits.memory};"
            " nothing was changed"
        )


async def _apply(pod: LivePod, container: LiveContainer, *, limits: Limits) -> None:
    try:
        await _ask(pod, container, limits=limits)
    except PodError:
        await _undo(pod, container)
        raise


async def _undo(pod: LivePod, container: LiveContainer) -> None:
    """crun may have got half way."""
    try:
        await _ask(pod, container, limits=_explicit(container.record.container.limits))
    except PodError as error:
        log.warning("container.limits", extra={**pod.log_fields(container), "error": str(error)})


def _explicit(limits: Limits) -> Limits:
    """The limits with the kernel's own value for each that is unset, so that it replaces one."""
    memory, quota, shares = limits.memory or -1, limits.cpu_quota_us or -1, limits.cpu_shares or 1024
    return limits._replace(memory=memory, cpu_quota_us=quota, cpu_shares=shares)


async def _ask(pod: LivePod, container: LiveContainer, *, limits: Limits) -> None:
    where = engine.bundle(container.id)
    name = await asyncio.to_thread(bundle.write_resources, pod.directory, where, limits=limits)
    await pod.call(messages.Update(container.id, name))
