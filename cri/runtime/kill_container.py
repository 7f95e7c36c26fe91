# SPDX-License-Identifier: Apache-2.0
"""KillContainer: sends a signal to the first process of a container; the request's `timeout` is its number."""

from cri.containers import order
from cri.node import Node
from cri.pb import runtime_pb2 as pb
from stage1.errors import BadRequest
from stage1.guest import messages

MOST = 64


async def kill_container(node: Node, request: pb.StopContainerRequest) -> pb.StopContainerResponse:
    """Send the signal once. NOT_FOUND for an unknown id; FAILED_PRECONDITION unless the container runs."""
    pod, container = node.pods.get_container(request.container_id)
    if not 1 <= request.timeout <= MOST:
        raise BadRequest(f"there is no signal {request.timeout}; signals have the numbers 1 to {MOST}")
    order.require(container, "kill")
    await pod.call(messages.Signal(container.id, 0, request.timeout, False))
    return pb.StopContainerResponse()
