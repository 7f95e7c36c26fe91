# SPDX-License-Identifier: Apache-2.0
"""Cuts the console files of all VMs now and then: a guest may write without end, and `/run` is memory.

Made by the node (and by `clearpod run`), given to each pod, which adds its VM. One task and one thread for all of them:
with a task and a thread for each, 500 idle pods would cost four percent of a processor. It must not know pods.
"""

import asyncio
import logging
from contextlib import contextmanager
from typing import TYPE_CHECKING

from stage1.errors import PodError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stage1.vm.vmm import VmProcess

TRIM_S = 10.0

log = logging.getLogger("clearpod.pods")


class Consoles:
    """The consoles that grow now. Its task runs as long as there are any, in the loop of who adds the first."""

    def __init__(self) -> None:
        self._vms: set[VmProcess] = set()
        self._task: asyncio.Task[None] | None = None

    @contextmanager
    def kept_short(self, vm: "VmProcess") -> "Iterator[None]":
        """Keep the VM's console short for the block."""
        self._vms.add(vm)
        self._task = self._task or asyncio.get_running_loop().create_task(self._rounds(), name="consoles")
        try:
            yield
        finally:
            self._vms.discard(vm)
            if not self._vms and self._task is not None:
                self._task.cancel()
                self._task = None

    async def _rounds(self) -> None:
        while True:
            await asyncio.sleep(TRIM_S)
            try:
                failed = await asyncio.to_thread(_trim, list(self._vms))
            except RuntimeError as error:  # there may be no more threads now; others have a later round
                log.error("pod.console", extra={"error": str(error)})
                continue
            for vm, fault in failed:
                log.error("pod.console", extra={"console": vm.console, "error": str(fault)})


def _trim(vms: "list[VmProcess]") -> "list[tuple[VmProcess, Exception]]":
    """Cut them; those that could not be, and why."""
    failed: list[tuple[VmProcess, Exception]] = []
    for vm in vms:
        try:
            vm.trim_console()
        except (PodError, OSError) as error:
            failed.append((vm, error))
    return failed
