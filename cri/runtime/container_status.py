# SPDX-License-Identifier: Apache-2.0
"""ContainerStatus, from memory."""

from cri.node import Node
from cri.pb import runtime_pb2 as pb
from cri.translate import replies


async def container_status(node: Node, request: pb.ContainerStatusRequest) -> pb.ContainerStatusResponse:
    """NOT_FOUND for an unknown id; verbose adds the OCI document."""
    pod, container = node.pods.get_container(request.container_id)
    info = replies.container_info(pod, container) if request.verbose else {}
    return pb.ContainerStatusResponse(status=replies.container_status(container), info=info)
