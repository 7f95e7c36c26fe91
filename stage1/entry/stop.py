# SPDX-License-Identifier: Apache-2.0
"""`stop`: asks the apps to end, then the guest; with --force, or when that takes too long, the VM is killed.

Called by rkt, and by the launcher when it gets a signal.
"""

import time

from stage1 import engine
from stage1.entry import dispatch
from stage1.errors import NotFound, PodError
from stage1.guest.messages import Halt, List
from stage1.rkt import arguments, connect, machine, own_kernel
from stage1.vm.vmm import VmProcess

GRACE_S = 10.0
"""The grace period of each app, from SIGTERM to SIGKILL, as in container runtimes."""
REACT_S = 4.0
"""The time for the guest's own end after that; a guest that still answers then gets `MORE_S`, for post-stop."""
PING_S, MORE_S = 0.5, 6.0


def main(argv: list[str]) -> int:
    """0 when the pod has ended. Raises NotFound when it never ran."""
    options = arguments.stop(argv)
    dispatch.report("stop", *options.warnings)
    place = machine.place(options.uuid)
    pod = engine.find_vm(place)
    if pod is None:
        raise NotFound(f"the pod {options.uuid} was not started, so it can't be stopped; rkt rm removes it")
    if not options.force and (why := _why_not_ended(options.uuid, pod)):
        dispatch.report("stop", f"the pod {options.uuid} {why} and is killed")
    machine.kill(place)
    return 0


def _why_not_ended(uuid: str, pod: VmProcess) -> str:
    """Ask the pod to end; empty when it did."""
    late, place = "did not end within its grace period", machine.place(uuid)
    if not machine.has_own_kernel(place):
        return "" if _halted(uuid, pod) else late

    if not own_kernel.has_button(place):
        return "has a machine without a power button"
    return "" if own_kernel.power_down(place, pod, limit_s=GRACE_S) else late


def _halted(uuid: str, pod: VmProcess) -> bool:
    """Whether it ended in order. A guest that hangs costs no more than one whose apps do not care."""
    until = time.monotonic() + GRACE_S + REACT_S
    try:
        with connect.to_agent(uuid, timeout_s=GRACE_S) as client:
            client.call(Halt("", int(GRACE_S * 1000)), timeout_s=max(until - time.monotonic(), PING_S))
            if pod.wait(max(until - time.monotonic(), 0)):
                return True
            client.call(List(), timeout_s=PING_S)
            return pod.wait(MORE_S)
    except PodError:
        return not pod.alive()
