# SPDX-License-Identifier: Apache-2.0
"""The sentence about a virtual machine that has ended. Called by the pod's own task, which tells it to everybody."""

import asyncio
import logging

from stage1.linux.process import PidHandle
from stage1.vm import sigsys
from stage1.vm.vmm import VmProcess

log = logging.getLogger("clearpod.pod")


async def sentence(vm: VmProcess, handle: PidHandle | None, *, title: str) -> str:
    """What ended, and why if its filter of system calls did it: a fault or an attack, which is logged as an error."""
    code = handle.exit_code if handle else None
    filtered = await asyncio.to_thread(sigsys.explain, vm.pid, vm.start_time, code=code)
    why = f"the virtual machine of {title} has ended{filtered}"
    if filtered:
        log.error("pod.filtered", extra={"title": title, "error": why})
    return why
