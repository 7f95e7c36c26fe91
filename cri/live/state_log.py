# SPDX-License-Identifier: Apache-2.0
"""Records each change of a container's state: one line of the log, and one fact of the pod's history. Called by
`LivePod.tell` for all of them, whatever caused them.
"""

import logging

from cri import events
from cri.live.container import LiveContainer
from cri.store.history import EXITED, STARTED, Fact

log = logging.getLogger("clearpod.pod")

EVENTS = {
    events.CREATED: "container.created",
    events.STARTED: "container.started",
    events.STOPPED: "container.exited",
    events.DELETED: "container.removed",
}
TROUBLE = ("OOMKilled", "StartError", "Unknown")
"""Reasons of an end that an administrator should look at; so is a sentence, which is about the VM's end, unless the
pod was being stopped.
"""


def fact(container: LiveContainer, kind: int) -> Fact | None:
    """The fact of the history that the event `kind` is; None of one that has none. Pure."""
    status, name = container.status, container.record.container.name
    if kind == events.STARTED:
        took_ns = status.started_ns - container.start_asked_ns if container.start_asked_ns else 0
        return Fact(STARTED, status.started_ns, took_ns, subject=name)
    if kind == events.STOPPED:
        return Fact(EXITED, status.finished_ns, 0, name, status.reason, status.exit_code, status.message)
    return None


def write(container: LiveContainer, kind: int, *, fields: dict[str, str], is_ending: bool) -> None:
    """Log the event `kind` with the `fields` of the container; `is_ending`: its pod is being stopped."""
    more: dict[str, object] = {}
    level = logging.INFO
    if kind == events.STOPPED:
        status = container.status
        more = {"code": status.exit_code, "reason": status.reason}
        if status.message:
            more["error"] = status.message
        if status.reason in TROUBLE or (status.message and not is_ending):
            level = logging.WARNING
    log.log(level, EVENTS[kind], extra={**fields, **more})
