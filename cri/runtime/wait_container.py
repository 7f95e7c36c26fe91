# SPDX-License-Identifier: Apache-2.0
"""WaitContainer: answers with the container's status when it has exited, also if it is removed in that moment."""

from cri.node import Node
from cri.pb import runtime_pb2 as pb
from cri.translate import replies


async def wait_container(node: Node, request: pb.ContainerStatusRequest) -> pb.ContainerStatusResponse:
    """Wait for its end, without a limit. NOT_FOUND for an unknown id."""
    _, container = node.pods.get_container(request.container_id)
    await container.ended.wait()
    return pb.ContainerStatusResponse(status=replies.container_status(container))
