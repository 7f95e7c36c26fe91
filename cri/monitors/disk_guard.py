# SPDX-License-Identifier: Apache-2.0
"""Holds pods that fill the disk of `state_dir`, until others have enough space again (docs/design/resources.md).

Made by the node. A pod that is held answers nothing; stops and removals end its VM. It looks at disks in threads, and
`filling` decides.
"""

import asyncio
import logging
import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from cri.storage import filling
from cri.storage.filling import DiskUsage
from cri.store import history
from cri.store.history import Fact
from stage1.errors import PodError
from stage1.linux import beneath, open_files
from stage1.vm import hold

if TYPE_CHECKING:
    from cri.live.pod import LivePod
    from stage1.vm.vmm import VmProcess

log = logging.getLogger("clearpod.storage")


class Guard:
    """Holds pods that fill the disk of `state_dir`, so that `keep_bytes` of it stay free; 0 switches it off. `pods`
    returns the pods to watch.
    """

    def __init__(self, state_dir: str, pods: "Callable[[], list[LivePod]]", *, keep_bytes: int) -> None:
        self._state_dir, self._pods, self._keep = state_dir, pods, keep_bytes
        self._held: dict[str, LivePod] = {}
        self._task: asyncio.Task[None] | None = None

    def open(self) -> None:
        """Begin; the event loop must run."""
        if self._keep:
            self._task = asyncio.get_running_loop().create_task(self._rounds(), name="guard of the disk")

    async def close(self) -> None:
        """End. A pod that is held stays so until the next daemon has taken it over: until then it is not measured."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    async def _rounds(self) -> None:
        seen = DiskUsage(0, 0, {})
        while True:
            try:
                seen = await self._round(seen)
                pause_s = filling.pause_s(seen, held=self._held, keep_bytes=self._keep)
            except (PodError, OSError) as error:
                log.error("storage.guard", extra={"error": str(error)})
                pause_s = filling.LONG_S
            await asyncio.sleep(pause_s)

    async def _round(self, before: DiskUsage) -> DiskUsage:
        pods = {pod.id: pod for pod in self._pods() if is_guarded(pod)}
        self._held = {pod_id: pod for pod_id, pod in self._held.items() if pod_id in pods}
        vmms = {pod_id: pod.vm.pid for pod_id, pod in pods.items() if pod.vm}
        now = await asyncio.to_thread(measure, self._state_dir, vmms, keep_bytes=self._keep)
        decision = filling.evaluate(before, now, held=self._held, keep_bytes=self._keep)
        if decision.hold in pods and is_guarded(pods[decision.hold]):  # something may have begun meanwhile
            await self._hold(pods[decision.hold], now.taken[decision.hold])
        if decision.go_on in pods:
            await self._go_on(pods[decision.go_on])
        return now

    async def _hold(self, pod: "LivePod", taken_bytes: int) -> None:
        assert pod.vm is not None
        if await _is_done(pod, hold.hold):
            self._held[pod.id] = pod
            pod.held = (
                f"{pod.title} is held, since it was filling the disk of {self._state_dir}; it continues when twice "
                "storage.keep_free_mib is free"
            )
            pod.meter.assume(taken_bytes)
            pod.note(Fact(history.HELD, text=pod.held))
            pod.save_soon()
            log.warning("pod.held", extra={"pod": pod.id, "title": pod.title, "warning": pod.held})

    async def _go_on(self, pod: "LivePod") -> None:
        if await _is_done(pod, hold.go_on):
            del self._held[pod.id]
            pod.held = ""
            pod.note(Fact(history.GOES_ON))
            pod.save_soon()
            log.warning("pod.continued", extra={"pod": pod.id, "title": pod.title})


def is_guarded(pod: "LivePod") -> bool:
    """Whether it may be held. One that is being adopted, saved or loaded must be able to answer, and one on the host
    has no disk.
    """
    is_answering = not pod.adopted.is_set() or pod.is_suspended or pod.gate.is_transferring
    return pod.is_ready and not is_answering and pod.vm is not None and not pod.record.pod.host


async def _is_done(pod: "LivePod", do: "Callable[[VmProcess, str], None]") -> bool:
    assert pod.vm is not None
    try:
        await asyncio.to_thread(do, pod.vm, pod.directory)
    except (PodError, OSError) as error:
        log.error("pod.hold_failed", extra={"pod": pod.id, "title": pod.title, "error": str(error)})
        return False
    return True


def measure(state_dir: str, vmms: "Mapping[str, int]", *, keep_bytes: int) -> DiskUsage:
    """The disk now, and what pods have taken of it, whose VMMs have these pids. Blocks.

    If space is short, other files that a VMM has open for writing are counted too: the file that its guest was saved
    in, which a compromised VMM may have kept open.
    """
    disk = os.statvfs(state_dir)
    size, free = disk.f_blocks * disk.f_frsize, disk.f_bavail * disk.f_frsize
    is_full = free < filling.ENOUGH * filling.kept_free(keep_bytes, size)
    taken = {}
    try:
        with beneath.Root(f"{state_dir}/scratch") as place:
            device = os.fstat(place.fd).st_dev
            for pod_id, pid in vmms.items():
                if (own := place.stat(f"{pod_id}.img")) is not None:
                    kept = open_files.written_blocks(pid, device, but=own.st_ino) if is_full else 0
                    taken[pod_id] = (own.st_blocks + kept) * 512
    except FileNotFoundError:
        pass
    return DiskUsage(size, free, taken)
