# SPDX-License-Identifier: Apache-2.0
"""The end of a virtual machine: waiting for it, and the sentence about it. Called by the pod's own task."""

import asyncio
import logging

from cri.threads import is_readable_within
from stage1.errors import Exhausted
from stage1.linux import process
from stage1.linux.process import PidHandle
from stage1.vm import sigsys
from stage1.vm.vmm import VmProcess

log = logging.getLogger("clearpod.pod")


RETRY_S = 0.5
CONSOLE_LINES = 12
SERVER_S = 1.0
"""The server of volumes ends with its VM, and so may be seen to end before."""


async def opened(vm: VmProcess) -> PidHandle | None:
    """A handle to wait for its end with; None when it has ended. Waits for a descriptor if there is none, since the end
    would go unnoticed.
    """
    while True:
        try:
            return process.open_process(vm.pid, vm.start_time)
        except Exhausted as error:
            log.warning("pod.unwatched", extra={"error": str(error)})
            await asyncio.sleep(RETRY_S)


async def seen(handle: PidHandle) -> None:
    """Wait for its end, and reap it if it is a child of ours."""
    await is_readable_within(None, handle.fileno())
    handle.wait(0)


async def see_server(vm: VmProcess) -> None:
    """End a VM whose server of volumes has ended, since its guest would hang; one in good order ends itself."""
    pid, start_time = vm.server or (0, 0)
    server = await opened(vm._replace(pid=pid, start_time=start_time))
    if server is not None:
        with server:
            await is_readable_within(None, server.fileno())
    handle = await opened(vm)
    if handle is not None:
        with handle:
            if not await is_readable_within(SERVER_S, handle.fileno()):
                error = f"the server of volumes (pid {pid}) has ended, so its VMM {vm.pid} is killed"
                log.error("pod.volumes", extra={"error": error})
                handle.kill()


async def sentence(vm: VmProcess, handle: PidHandle | None, *, title: str) -> str:
    """What ended, and whether its seccomp filter killed it: a bug or an attack, which is logged as an error."""
    code = handle.exit_code if handle else None
    may_be_filtered = sigsys.is_possible(code)
    filtered = await asyncio.to_thread(sigsys.explain, vm.pid, vm.start_time, code=code) if may_be_filtered else ""
    why = f"the virtual machine of {title} has ended{filtered}"
    if filtered:
        log.error("pod.filtered", extra={"title": title, "error": why})
    return why
