# SPDX-License-Identifier: Apache-2.0
"""The one order of operations: which call is possible while a container, or a pod, is in which phase.

A phase is the stored state (`stage1.pod.states`) or the operation in progress. Used by every operation before it
begins, and again once it has its lock. docs/dev/cri.md draws both tables; a test holds it to them. Pure.
"""

from typing import TYPE_CHECKING

from stage1.errors import NotFound, Unsupported, WrongState
from stage1.pod.states import CREATED, DEAD, EXITED, READY, RUNNING, STOPPING

if TYPE_CHECKING:
    from cri.live.container import LiveContainer
    from cri.live.pod import LivePod

STARTING, REMOVING = "starting", "removing"

GO, NOTHING, AFTER, REFUSED = "go", "nothing", "after", "refused"
"""It is done; there is nothing to do; it is done after what is being done; it is an error."""

CONTAINERS = {
    "start": {CREATED: GO, STARTING: REFUSED, RUNNING: REFUSED, EXITED: REFUSED, REMOVING: REFUSED},
    "stop": {CREATED: NOTHING, STARTING: AFTER, RUNNING: GO, EXITED: NOTHING, REMOVING: AFTER},
    "remove": {CREATED: GO, STARTING: AFTER, RUNNING: GO, EXITED: GO, REMOVING: AFTER},
    "update": {CREATED: GO, STARTING: AFTER, RUNNING: GO, EXITED: REFUSED, REMOVING: REFUSED},
    "kill": {CREATED: REFUSED, STARTING: REFUSED, RUNNING: GO, EXITED: REFUSED, REMOVING: REFUSED},
    "exec": {CREATED: REFUSED, STARTING: REFUSED, RUNNING: GO, EXITED: REFUSED, REMOVING: REFUSED},
    "attach": {CREATED: REFUSED, STARTING: REFUSED, RUNNING: GO, EXITED: REFUSED, REMOVING: REFUSED},
    "reopen log": {CREATED: REFUSED, STARTING: REFUSED, RUNNING: GO, EXITED: REFUSED, REMOVING: REFUSED},
}
"""Call, phase of the container, what comes of it."""

PODS = {
    "create": {READY: GO, STOPPING: REFUSED, DEAD: REFUSED, REMOVING: REFUSED},
    "update": {READY: GO, STOPPING: REFUSED, DEAD: REFUSED, REMOVING: REFUSED},
    "port forward": {READY: GO, STOPPING: REFUSED, DEAD: REFUSED, REMOVING: REFUSED},
    "stop": {READY: GO, STOPPING: AFTER, DEAD: GO, REMOVING: AFTER},
    "remove": {READY: GO, STOPPING: AFTER, DEAD: GO, REMOVING: AFTER},
}
"""The same for pods. A stopped pod is stopped again, since resources that could not be released before may be
releasable now.
"""

_REQUIREMENTS = {"start": "only a created one can be started", "update": "only a created or running one can be updated"}


def phase(container: "LiveContainer") -> str:
    """The container's state, or the operation in progress on it."""
    if container.removers:
        return REMOVING
    return STARTING if container.is_starting and container.status.state != EXITED else container.status.state


def require(container: "LiveContainer", call: str) -> None:
    """Raise WrongState when the call is refused now."""
    now = phase(container)
    if CONTAINERS[call][now] == REFUSED:
        allowed = _REQUIREMENTS.get(call, f"{call} is for a running one")
        why = f" ({container.status.message})" if container.status.reason == "StartError" else ""
        raise WrongState(f"container {container.id} is {now}{why}; {allowed}")


def require_agent(container: "LiveContainer", call: str) -> None:
    """Raise Unsupported for a kernel of its own, in which there is no agent."""
    if container.record.kernel.path:
        raise Unsupported(
            f"container {container.id} is a kernel of its own, without an agent: {call} is not possible; it can only "
            "be stopped, and its log can be read"
        )


def require_known(pod: "LivePod", container: "LiveContainer") -> None:
    """Raise NotFound when it was removed meanwhile."""
    if pod.containers.get(container.id) is not container:
        raise NotFound(f"container {container.id} has been removed")
