# SPDX-License-Identifier: Apache-2.0
"""Makes a ContainerEventResponse of an event. Called when it happens, for each subscriber. Pure but for the clock."""

import time

from cri import events
from cri.events import Event
from cri.live.pod import LivePod
from cri.pb import runtime_pb2 as pb
from cri.translate import replies

KINDS = {
    events.CREATED: pb.CONTAINER_CREATED_EVENT,
    events.STARTED: pb.CONTAINER_STARTED_EVENT,
    events.STOPPED: pb.CONTAINER_STOPPED_EVENT,
    events.DELETED: pb.CONTAINER_DELETED_EVENT,
}


def event(what: Event) -> pb.ContainerEventResponse:
    """The pod as it is now, unless it is what was deleted, and all its containers."""
    kind, subject = what.kind, what.subject
    pod: LivePod = what.pod
    is_gone = kind == events.DELETED and subject == pod.id
    return pb.ContainerEventResponse(
        container_id=subject,
        container_event_type=KINDS[kind],
        created_at=time.time_ns(),
        pod_sandbox_status=None if is_gone else replies.sandbox_status(pod),
        containers_statuses=[replies.container_status(one) for one in pod.containers.values()],
    )
