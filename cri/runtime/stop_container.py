# SPDX-License-Identifier: Apache-2.0
"""StopContainer: sends the stop signal and, after the grace period, SIGKILL; returns when it is EXITED."""

from cri.containers import stop as stops
from cri.node import Node
from cri.pb import runtime_pb2 as pb


async def stop_container(node: Node, request: pb.StopContainerRequest) -> pb.StopContainerResponse:
    """Stop the container. Idempotent: returns at once when it does not run or is unknown."""
    if pair := node.pods.find_container(request.container_id):
        await stops.stop(*pair, grace_s=max(request.timeout, 0))
    return pb.StopContainerResponse()
