# SPDX-License-Identifier: Apache-2.0
"""The startup check of a VMM: whether it goes on, and if not, why. The ways to watch one are for the drivers; the
verdict and the error are for starter.ProcessVmm.

Nothing is started or ended here, and the guest is not waited for.
"""

import os
import select
import socket
import time

from stage1.errors import KernelError, VmFailed
from stage1.linux import beneath
from stage1.linux.process import PidHandle
from stage1.vm.spec import Hypervisor

SET_UP_S = 60.0
"""How long a VMM may take until a vCPU runs. A few milliseconds are usual, ten seconds were seen under emulation."""
_POLL_S = 0.002
_LAST_LINES = 20


def ends_within(handle: PidHandle, watch_s: float) -> bool:
    """Whether the VMM ends within `watch_s`: for one that does not show when it has set up its guest."""
    return handle.wait(watch_s)


def ends_before_thread(handle: PidHandle, prefix: str) -> bool:
    """Whether the VMM ends before it has a thread whose name begins with `prefix`, or SET_UP_S are over."""
    deadline = time.monotonic() + SET_UP_S
    while not handle.wait(_POLL_S):
        if _has_thread(handle.pid, prefix) or time.monotonic() >= deadline:
            return False
    return True


def ends_before_greeting(handle: PidHandle, monitor: str) -> bool:
    """Whether the VMM ends before its monitor at the socket `monitor` says something, or SET_UP_S are over: for one
    that runs no guest until it is told to. Raises VmFailed.
    """

    with socket.socket(socket.AF_UNIX) as peer:
        try:
            with beneath.Socket(monitor) as address:
                peer.connect(address)  # the socket is listening: it was created for the VMM
        except (OSError, KernelError) as error:
            raise VmFailed(f"the VMM can't be asked at {monitor}: {error}") from None
        poll = select.poll()
        for one in (handle, peer):
            poll.register(one, select.POLLIN)
        poll.poll(SET_UP_S * 1000)
    return handle.wait(0)


def failure(hypervisor: Hypervisor, binary: str, *, code: int | None, output: str, filtered: str = "") -> VmFailed:
    """The error for a VMM that ended with `code` after it had written `output`; `filtered` is `sigsys.explain`'s."""
    last = "\n".join(output.splitlines()[-_LAST_LINES:]).strip() or "it wrote nothing"
    sentence = f"the VMM ended at once with code {code}{filtered}; its last lines:\n{last}"
    return hypervisor.explain(binary, output, sentence=sentence)


def _has_thread(pid: int, prefix: str) -> bool:
    try:
        return any(_thread_name(pid, task).startswith(prefix) for task in os.listdir(f"/proc/{pid}/task"))
    except OSError:  # it has ended just now
        return False


def _thread_name(pid: int, task: str) -> str:
    with open(f"/proc/{pid}/task/{task}/comm", encoding="utf-8", errors="replace") as file:
        return file.read()
