# SPDX-License-Identifier: Apache-2.0
"""Whether there is room for what is about to be saved of a running pod: its guest's memory, and a copy of its disk.

Called before the guest stands still. A pod's author may ask for copies, and other pods write to the same disk: what
`storage.keep_free_mib` keeps of it for them is left, as by a pull.
"""

import asyncio
import os
from typing import TYPE_CHECKING

from stage1 import machine
from stage1.linux import files
from stage1.linux.libc import Guard

if TYPE_CHECKING:
    from cri.live.pod import LivePod
    from cri.storage.disk import Storage

MIB = 1 << 20
_RESIDENT = ("RssAnon:", "RssShmem:")


async def require(pod: "LivePod", near: str, *, disk: bool) -> None:
    """Raise NoSpace where a file in the directory `near` with the guest, and with `disk` another one with its disk,
    would leave too little of the file system.
    """
    if pod.tools.storage is not None:
        await asyncio.to_thread(_require, pod.tools.storage, pod, near=near, disk=disk)


def _require(storage: "Storage", pod: "LivePod", *, near: str, disk: bool) -> None:
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
