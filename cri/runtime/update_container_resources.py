# SPDX-License-Identifier: Apache-2.0
"""UpdateContainerResources: changes the limits of a created or running container (`crictl update`, in-place resize)."""

from cri.containers import limits
from cri.node import Node
from cri.pb import runtime_pb2 as pb
from cri.store.pods import ContainerRecord
from cri.translate import resources
from stage1.errors import BadRequest


async def update_container_resources(
    node: Node, request: pb.UpdateContainerResourcesRequest
) -> pb.UpdateContainerResourcesResponse:
    """All or nothing; RESOURCE_EXHAUSTED for more than the VM has.

    A new oom_score_adj is recorded and counts from the next exec on.
    """
    if not request.HasField("linux"):
        raise BadRequest("the request has no new limits in linux, and a Linux guest has no others")
    pod, container = node.pods.get_container(request.container_id)
    given = await pod.tools.hooks.updating(pod, container, given=request.linux)

    def make() -> ContainerRecord:
        changed = resources.updated_container(container.record, given, pod=pod.record.pod)
        resources.require_ceiling(container.record, changed, pod=pod.record.pod)
        return changed

    make()  # what makes no sense is refused at once
    await limits.update(pod, container, make=make)
    pod.tools.hooks.updated(pod, container)
    return pb.UpdateContainerResourcesResponse()
