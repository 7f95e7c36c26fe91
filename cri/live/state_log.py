# SPDX-License-Identifier: Apache-2.0
"""One line of the log for each change of a container's state, with its pod. Called by `LivePod.tell`, which hears of
all of them, whoever caused them.
"""

import logging
from typing import TYPE_CHECKING

from cri import events
from stage1.pod import states

if TYPE_CHECKING:
    from cri.live.container import LiveContainer
    from cri.live.pod import LivePod

log = logging.getLogger("clearpod.pod")

EVENTS = {
    events.CREATED: "container.created",
    events.STARTED: "container.started",
    events.STOPPED: "container.exited",
    events.DELETED: "container.removed",
}
TROUBLE = ("OOMKilled", "StartError", "Unknown")
"""Reasons of an end that an administrator should look at; so is a sentence, which says that the VM is gone, unless the
pod was being stopped.
"""


def write(pod: "LivePod", container: "LiveContainer", *, kind: int) -> None:
    """Log that the state has changed, as the event `kind` says."""
    fields: dict[str, object] = {**pod.log_fields(container)}
    level = logging.INFO
    if kind == events.STOPPED:
        status = container.status
        fields |= {"code": status.exit_code, "reason": status.reason}
        if status.message:
            fields["error"] = status.message
        if status.reason in TROUBLE or (status.message and pod.status.state != states.STOPPING):
            level = logging.WARNING
    log.log(level, EVENTS[kind], extra=fields)
