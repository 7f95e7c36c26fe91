# SPDX-License-Identifier: Apache-2.0
"""The end of a running pod: its containers are killed, its guest is asked to end, and if it does not its VM is killed.

Called by StopPodSandbox and by the table, and by what stops a container in a guest that does not react. A guest that
does not answer gets one limit, not one for each question.
"""

import asyncio
import logging

from cri.live.container import LiveContainer
from cri.live.pod import LivePod
from cri.live.tools import log_deferred_del
from cri.store import history
from cri.store.history import Fact
from cri.threads import is_done_within, is_set_within, run_uncancellable
from stage1 import engine
from stage1.errors import PodError, VmFailed
from stage1.guest import messages
from stage1.linux import process
from stage1.pod import states

log = logging.getLogger("clearpod.pod")

KILL_S = 20.0


async def stop(pod: LivePod) -> None:
    """Kill all containers, end the VM, release the volumes and the network; idempotent, also without a VM. Who waits
    for the pod's lock to save its guest is refused.

    Raises VmFailed, and NetworkFailed as `engine.remove_network`.
    """
    pod.is_going = True
    try:
        await _end_transfer(pod)
        await _stop(pod)
    except BaseException:
        pod.is_going = False
        raise


async def _stop(pod: LivePod) -> None:
    async with pod.gate.lock:
        releasing = None
        if pod.status.state != states.DEAD:
            pod.note(Fact(history.STOPPING))
            pod.move("stop")
            releasing = await end(pod)
        elif pod.vm is not None:
            await asyncio.to_thread(pod.vm.kill)  # it may have outlived an earlier try
        if releasing is None:
            await pod.tools.hooks.stopped(pod)
        pod.loopback.close()
        for container in list(pod.containers.values()):
            async with container.lock:
                await run_uncancellable(engine.remove_container, pod.directory, container.id)
        await (releasing or _release(pod))
        pod.network = None


async def _end_transfer(pod: LivePod) -> None:
    """A guest that is saved or loaded gets as long for that as any guest to react; its VM is ended then, and with it
    what has the pod's lock. Raises VmFailed.
    """
    if await pod.gate.is_transfer_over_within(pod.tools.react_s):
        return
    log.warning(
        "pod.transfer", extra={**pod.log_fields(), "error": "it was stopped while its guest was being saved or loaded"}
    )
    vm = pod.vm or await asyncio.to_thread(engine.find_vm, pod.directory)
    if vm is not None:
        await asyncio.to_thread(vm.kill)


async def remove(pod: LivePod) -> None:
    """Stop if needed, then remove everything of the pod but its log files, once nothing uses them any more.

    Raises as `stop` and `engine.clean_up`.
    """
    pod.is_going = True
    try:
        await stop(pod)
        await pod.gate.close()
        await pod.detach()
        log_deferred_del(await pod.run_in_pool(engine.clean_up, pod.directory))
    except BaseException:
        pod.is_going = False
        raise
    log.info("pod.removed", extra={"pod": pod.id, "title": pod.title})


async def end(pod: LivePod) -> "asyncio.Task[None] | None":
    """Return when `pod.gone` is set; what gives the network back, if that was begun once the containers had ended.

    Raises VmFailed when the VM can't be killed.
    """
    if pod.is_suspended:
        pod.end_suspension()  # it can't be resumed any more
        pod.mark_dead(f"{pod.title} was stopped while it was suspended")
        return None
    half_s, releasing = pod.tools.react_s / 2, None  # for all containers, and for the guest itself
    if await is_done_within(half_s, _kill_containers(pod)):
        if _needs_no_network(pod):
            await pod.tools.hooks.stopped(pod)
            releasing = pod.gate.run_in_background(_release(pod, is_cut=True), f"network of {pod.title}")
        await is_done_within(half_s, _shut_down(pod))
    if not pod.gone.is_set() and pod.vm is not None:
        await _kill_vm(pod)
    return releasing


def _needs_no_network(pod: LivePod) -> bool:
    """Whether nothing that is asked to end is left in the guest, and the next daemon will know that it is ending."""
    of = pod.record.pod
    if of.host or of.profile or pod.status.is_own or pod.network is None:
        return False
    try:
        pod.save()
    except PodError:
        return False
    return True


async def _release(pod: LivePod, *, is_cut: bool = False) -> None:
    log_deferred_del(await pod.run_in_pool(engine.remove_network, pod.directory, is_cut=is_cut))


async def kill_unresponsive(pod: LivePod, why: str) -> None:
    """End the VM of a guest that does not react. Returns when `pod.gone` is set. Raises VmFailed."""
    if not pod.gone.is_set():
        pod.expect_end(f"{pod.title} was killed, since its guest did not respond: {why}")
        if pod.vm is not None:
            await _kill_vm(pod)


async def _kill_vm(pod: LivePod) -> None:
    assert pod.vm is not None
    await asyncio.to_thread(pod.vm.kill)
    if not await is_set_within(KILL_S, pod.gone):
        raise VmFailed(f"the virtual machine of {pod.title} (pid {pod.vm.pid}) can't be killed")


async def _shut_down(pod: LivePod) -> None:
    try:
        await pod.call(messages.Shutdown())
    except PodError:
        pass  # it may be gone before it could answer
    await pod.gone.wait()


async def _kill_containers(pod: LivePod) -> None:
    """All at once. Raises PodError when there is no agent any more: the VM's end will end them."""
    running = [container for container in pod.containers.values() if container.is_running]
    await asyncio.gather(*(_kill(pod, container) for container in running))


async def _kill(pod: LivePod, container: LiveContainer) -> None:
    await pod.call(messages.Signal(container.id, 0, process.SIGKILL, True))
    await container.ended.wait()
