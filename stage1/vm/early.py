# SPDX-License-Identifier: Apache-2.0
"""The first moments of a VMM: whether it goes on, and if not, why. Called by starter.ProcessVmm.

Nothing is started or ended here, and the guest is not waited for.
"""

import os
import time

from stage1.errors import CidTaken, VmFailed
from stage1.linux.process import PidHandle

SET_UP_S = 60.0
"""How long kvmtool may take until a vCPU runs. A few milliseconds are usual, ten seconds were seen under emulation."""
_LOOK_S = 0.002


def ends(handle: PidHandle, *, early_s: float, on_kvmtool: bool) -> bool:
    """Whether the VMM ends before it can run a guest.

    kvmtool is watched until a vCPU's thread is there: by then it has taken all that it was given. Of QEMU one can't
    see that, so it is watched for `early_s`.
    """
    if not on_kvmtool:
        return handle.wait(early_s)
    deadline = time.monotonic() + SET_UP_S
    while not handle.wait(_LOOK_S):
        if _has_vcpu(handle.pid) or time.monotonic() >= deadline:
            return False
    return True


def failure(binary: str, code: int | None, *, said: str, filtered: str = "") -> VmFailed:
    """The error for a VMM that ended with `code` after it had written `said`; `filtered` is `sigsys.explain`'s."""
    last = "\n".join(said.splitlines()[-20:]).strip() or "it wrote nothing"
    sentence = f"the VMM ended at once with code {code}{filtered}; its last lines:\n{last}"
    _, unknown, rest = said.partition("unknown option `")
    if unknown:
        option = rest.partition("'")[0]
        return VmFailed(f"{binary} is too old: it has no option --{option}; install a newer kvmtool")
    if "SET_GUEST_CID failed: Address already in use" in said:
        return CidTaken(sentence)
    return VmFailed(sentence)


def _has_vcpu(pid: int) -> bool:
    try:
        return any(_thread_name(pid, task).startswith("kvm-vcpu-") for task in os.listdir(f"/proc/{pid}/task"))
    except OSError:  # it has ended just now
        return False


def _thread_name(pid: int, task: str) -> str:
    with open(f"/proc/{pid}/task/{task}/comm", encoding="utf-8", errors="replace") as file:
        return file.read()
