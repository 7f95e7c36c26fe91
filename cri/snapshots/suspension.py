# SPDX-License-Identifier: Apache-2.0
"""Suspends and resumes a pod: its guest is saved to a file and its VMM ended; the pod stays listed with its state.

Called by the RPCs, and before calls for which a suspended pod has to run. The host's part is `stage1.snapshot`, which
defines at what moment a pod becomes suspended; the successor of a daemon that was killed determines it (`adopt`).
"""

import asyncio
import contextlib
import logging
import os
import secrets
from typing import TYPE_CHECKING

from cri.retry import every, retry_while_busy, within
from cri.store import history
from cri.store.history import Fact
from cri.threads import apart
from stage1 import machine
from stage1.errors import PodError, VmFailed, WrongState
from stage1.guest import messages
from stage1.linux import files
from stage1.linux.libc import Guard
from stage1.machine import SUSPEND
from stage1.net import activation
from stage1.pod import guest_volumes, states
from stage1.pod.model import ON_DEMAND
from stage1.rootfs import checkpoint
from stage1.snapshot import load as loads
from stage1.snapshot import save as saves

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from cri.live.pod import LivePod
    from cri.storage.disk import Storage
    from cri.store.images import ImageStore
    from stage1.rootfs.share import ImageFiles
    from stage1.vm.vmm import VmProcess

log = logging.getLogger("clearpod.pod")

FREEZE, THAW = messages.Freeze(), messages.Freeze(thaw=True)
"""Of all containers."""
UNMOUNT, MOUNT = messages.Shares(), messages.Shares(mount=True)
ANSWER_S, SHARES_S = 20.0, 5.0
MIB = 1 << 20
_RESIDENT = ("RssAnon:", "RssShmem:")
RETRY_S = 10.0
"""How long a pod is left alone after a connection could not resume it."""
BUSY = "an operation is in progress in it; end execs and retry"
SETTLE_S, SETTLE_STEP_S = 2.0, 0.02
"""How long to wait for operations that are about to end, such as an exec whose caller has its answer already."""


async def settle(pod: "LivePod") -> None:
    """Wait until no operation of the pod is in progress, at most `SETTLE_S`; `blocker` then gives what is left."""
    for _ in range(round(SETTLE_S / SETTLE_STEP_S)):
        if not _is_busy(pod):
            return
        await asyncio.sleep(SETTLE_STEP_S)


async def be_quiet(pod: "LivePod", what: str = "suspended") -> None:
    """Wait for what was asked of the guest before its pause began, which would find its bundles gone. Raises WrongState
    when that lasts, or a command runs that has begun since `blocker` was asked.
    """

    async def ask() -> None:
        if not await pod.gate.is_quiet_within(SHARES_S):
            raise WrongState(f"{pod.title} can't be {what}: {BUSY}")

    await retry_while_busy(ask, every(SETTLE_STEP_S, within(SETTLE_S)))


async def unmount_shares(ask: "Callable[[messages.Shares], Awaitable[object]]") -> None:
    """Have the guest unmount the host's directories; `ask` sends the request. A container that was started a moment ago
    holds them until its program runs, after crun's answer: that is waited for up to `SHARES_S`. Raises PodError.
    """
    await retry_while_busy(lambda: ask(UNMOUNT), every(SETTLE_STEP_S, within(SHARES_S)))


def _is_busy(pod: "LivePod") -> bool:
    containers = pod.containers.values()
    return bool(pod.execs) or pod.gate.is_used or any(one.is_starting or one.lock.locked() for one in containers)


def blocker(pod: "LivePod", what: str = "suspended") -> str:
    """Why the pod can't be suspended now, or copied, as a sentence; empty when it can."""
    why = _blocker(pod)
    return f"{pod.title} can't be {what}: {why}" if why else ""


def _blocker(pod: "LivePod") -> str:
    if not pod.record.pod.suspend:
        return f"it was not created with the annotation {SUSPEND}"
    if pod.status.is_own:
        return "it runs a kernel of its own"
    if not pod.tools.host.choice.hypervisor.has_templates:
        return f"{pod.tools.host.choice.hypervisor.title} can't save a guest"
    for container in pod.containers.values():
        if container.status.state != states.EXITED and (why := guest_volumes.blocker(container.record.container)):
            return why
    if pod.held:  # by the guard of the disk
        return pod.held
    if _is_busy(pod):
        return BUSY
    return ""


async def suspend(pod: "LivePod", images: "ImageStore") -> None:
    """Save the guest and end the VMM; idempotent. Raises WrongState with the blocker, and then or for another error the
    pod runs on.
    """
    async with pod.gate.lock:
        if pod.is_suspended:
            return
        pod.require_ready()
        await settle(pod)
        if why := blocker(pod):
            raise WrongState(why)
        await require_space(pod, pod.tools.host.state_dir, disk=False)
        with pod.gate.transferring():
            await _suspend(pod, images)
        pod.vm = None
        pod.note(Fact(history.SUSPENDED))
        pod.save_soon()
        await _listen(pod)
    log.info("pod.suspended", extra=pod.log_fields())


async def _suspend(pod: "LivePod", images: "ImageStore") -> None:
    await pod.images.settle()
    with pod.gate.quiescing():
        await be_quiet(pod)
        await _part_and_save(pod, images)


async def _part_and_save(pod: "LivePod", images: "ImageStore") -> None:
    pod.begin_suspension(f"{pod.title} is suspended; `clearpod resume` resumes it")
    try:
        await unmount_shares(lambda op: pod.call(op, ANSWER_S))
    except BaseException:
        pod.end_suspension()
        raise
    await pod.gate.dismiss(pod.held)
    await pod.part()
    try:
        await _save(pod, images)
    except BaseException:
        pod.end_suspension()
        await _go_on(pod)
        raise


async def resume(pod: "LivePod", *, load: "Callable[..., VmProcess]" = loads.resume) -> None:
    """Resume the guest in a new VM; idempotent. Raises what `load` raises, and the pod stays suspended; VmFailed if
    the guest was loaded and does not answer, or WrongState if it has ended before, and the pod has ended.
    """
    async with pod.gate.lock:
        if not pod.is_suspended:
            pod.require_ready()
            return
        with pod.gate.transferring():
            await _resume(pod, load)
        pod.note(Fact(history.RESUMED))
        pod.save_soon()
        try:
            await pod.bind_cpus(anew=True)
        except PodError as error:
            log.warning("pod.cpus", extra={**pod.log_fields(), "error": str(error)})
    log.info("pod.resumed", extra=pod.log_fields())


async def _resume(pod: "LivePod", load: "Callable[..., VmProcess]") -> None:
    tools = pod.tools
    living = [one.record.container for one in pod.containers.values() if one.status.state != states.EXITED]
    vm = await tools.run_in_bulk(load, pod.directory, pod.record.pod, host=tools.host, vmm=tools.vmm, containers=living)
    pod.end_suspension()
    pod.vm = vm
    await _meet_or_end(pod, "it was resumed")


async def _listen(pod: "LivePod") -> None:
    """Resume the pod for a connection to one of its host ports, if it is to be resumed on demand."""
    ports = {(one.protocol, one.container_port) for one in pod.record.pod.ports if one.host_port}
    if pod.record.pod.suspend != ON_DEMAND or not ports or pod.network is None or not pod.network.interfaces:
        return
    device = pod.network.interfaces[0]
    endpoints = activation.endpoints(device.mac, pod.ips, ports=ports)

    def activate() -> None:
        pod.gate.run_in_background(_resume_for_caller(pod), f"resumption of {pod.title}")

    await pod.activation.open(pod.id, device.name, endpoints=endpoints, activate=activate)


async def _resume_for_caller(pod: "LivePod") -> None:
    """The client sends again, as TCP does. After a failure the next connection tries again, some seconds later."""
    try:
        await resume(pod)
    except PodError as error:
        log.warning("pod.activation_failed", extra={**pod.log_fields(), "error": str(error)})
        await asyncio.sleep(RETRY_S)
        async with pod.gate.lock:
            if pod.is_suspended:
                await _listen(pod)


async def wake(pod: "LivePod", *, is_end: bool) -> None:
    """Make sure that the pod runs, for a call that needs its guest. Raises WrongState for one that is suspended and is
    to be resumed by hand, unless a container is to be ended.
    """
    if pod.is_suspended:
        if not is_end and pod.record.pod.suspend != ON_DEMAND:
            raise WrongState(pod.held)
        # Whoever wants that may go away, as the client of ExecSync; a guest that was loaded must not be forgotten then.
        await asyncio.shield(pod.gate.run_in_background(resume(pod), f"resumption of {pod.title}"))


async def adopt(pod: "LivePod") -> bool:
    """Finish what the previous daemon began: whether the pod is suspended. If not, its guest runs. Raises VmFailed."""
    if not pod.record.pod.suspend:
        return False
    if not await asyncio.to_thread(loads.is_suspended, pod.directory):
        with apart() as pool:
            await asyncio.get_running_loop().run_in_executor(pool, saves.go_on, pod.directory)
        await asyncio.to_thread(checkpoint.abandon, pod.directory)
        return False
    await asyncio.to_thread(loads.settle, pod.directory)
    pod.begin_suspension(f"{pod.title} is suspended; `clearpod resume` resumes it")
    await pod.loopback.reopen(pod.record.pod, pod.ips)
    await _listen(pod)
    return True


async def mount_again(pod: "LivePod") -> None:
    """Undo what a suspension or a copy has unmounted and frozen, also one that was killed. Raises PodError."""
    if pod.record.pod.suspend:
        await pod.call(MOUNT, ANSWER_S)
        if pod.hello.copies:
            await pod.call(THAW, ANSWER_S)


async def _go_on(pod: "LivePod") -> None:
    """Connect again to the guest, which was not saved and runs. When that fails the pod has ended."""
    with contextlib.suppress(VmFailed):
        await _meet_or_end(pod, "it could not be suspended")


async def _meet_or_end(pod: "LivePod", when: str) -> None:
    """Raises VmFailed when the guest is lost, and its VM is ended then, since the pod would answer nothing."""
    try:
        await _meet(pod)
    except (PodError, TimeoutError) as error:
        why = f"{pod.title} could not be resumed after {when}: {error}"
        pod.expect_end(why)
        if pod.vm is not None:
            await asyncio.to_thread(pod.vm.kill)
        raise VmFailed(why) from None


async def _meet(pod: "LivePod") -> None:
    if pod.vm is None:
        raise VmFailed(f"{pod.title} has no VM")
    pod.watch(pod.vm)
    pod.epoch = secrets.randbits(63) | 1  # request ids start again
    await pod.meet(pod.tools.adopt_timeout_s)
    await mount_again(pod)


async def _save(pod: "LivePod", images: "ImageStore") -> None:
    """Save the guest and end its VM. After a failure the VM may stay: resumption and removal of the pod end it."""
    window = await asyncio.to_thread(files_in_window, pod, images)
    try:
        of_pod, tools = (pod.directory, pod.record.pod), pod.tools
        await tools.run_in_bulk(saves.suspend, *of_pod, host=tools.host, images=window)
    except (PodError, OSError) as error:
        if not await asyncio.to_thread(loads.is_suspended, pod.directory):
            raise
        log.warning("pod.suspended", extra={**pod.log_fields(), "error": str(error)})


def files_in_window(pod: "LivePod", images: "ImageStore") -> "dict[str, ImageFiles]":
    """Return the files of the images that containers of the pod use, by their names in its window. Blocks."""
    image_files: dict[str, ImageFiles] = {}
    records = [(one.record.window_image, one.record.image_id) for one in pod.containers.values()]
    for name, image_id in (*records, *((one.window_image, one.image_id) for one in pod.status.waiting)):
        if name and name not in image_files and (image := images.find(image_id)):
            image_files[name] = images.files(image)
    return image_files


async def require_space(pod: "LivePod", near: str, *, disk: bool) -> None:
    """Raise NoSpace where a file in the directory `near` with the guest, and with `disk` another one with its disk,
    would leave too little of the file system: `storage.keep_free_mib` is for other pods, as with a pull. Asked before
    the guest stands still, since a pod's author may ask for copies.
    """
    if pod.tools.storage is not None:
        await asyncio.to_thread(_require_space, pod.tools.storage, pod, near=near, disk=disk)


def _require_space(storage: "Storage", pod: "LivePod", *, near: str, disk: bool) -> None:
    model = pod.record.pod
    needed = min(resident_bytes(pod.vm.pid), model.memory_mib * MIB) if pod.vm else 0
    path = machine.vm_spec(model, pod.tools.host, directory=pod.directory).scratch if disk else ""
    if path:
        with Guard("stat", path):
            needed += os.stat(path).st_blocks * 512
    storage.require_free(near, needed, what=f"the state of {pod.title}")


def resident_bytes(pid: int) -> int:
    """Memory of a process that is in no file: what its guest has touched, and some of its own. 0 when it has ended."""
    try:
        lines = files.read(f"/proc/{pid}/status").decode(errors="replace").splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) << 10 for line in lines if line.startswith(_RESIDENT))
