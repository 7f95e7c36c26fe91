# SPDX-License-Identifier: Apache-2.0
"""States of pods and containers: one table of allowed moves. Both front ends and the recovery code use it.

A pod is READY from the moment its agent answered until its VM is gone or a stop began; there is no way back
(CRI PodSandboxState). A container's states are those of CRI ContainerState without UNKNOWN.
"""

from stage1.errors import WrongState

NEW, BOOTING, READY, STOPPING, DEAD = "new", "booting", "ready", "stopping", "dead"
CREATED, RUNNING, EXITED = "created", "running", "exited"

POD_MOVES = {
    (NEW, "boot"): BOOTING,
    (BOOTING, "agent_up"): READY,
    (BOOTING, "vm_exit"): DEAD,
    (READY, "stop"): STOPPING,
    (READY, "vm_exit"): DEAD,
    (STOPPING, "stop"): STOPPING,
    (STOPPING, "vm_exit"): DEAD,
    (DEAD, "stop"): DEAD,
    (DEAD, "vm_exit"): DEAD,
}

CONTAINER_MOVES = {
    (CREATED, "start"): RUNNING,
    (CREATED, "start_failed"): EXITED,
    (CREATED, "vm_exit"): EXITED,
    (RUNNING, "exit"): EXITED,
    (RUNNING, "vm_exit"): EXITED,
    (EXITED, "exit"): EXITED,
    (EXITED, "vm_exit"): EXITED,
}


def move(moves: dict[tuple[str, str], str], state: str, *, event: str) -> str:
    """The state that follows; raises WrongState when `event` is not allowed in `state`."""
    try:
        return moves[state, event]
    except KeyError:
        allowed = ", ".join(one for one, name in moves if name == event) or "none"
        raise WrongState(f"{event} is not possible in state {state}; it is in: {allowed}") from None
