# SPDX-License-Identifier: Apache-2.0
"""RemoveContainer: kills the container if it runs, and removes it, except the log file, which is the kubelet's."""

from cri.node import Node
from cri.pb import runtime_pb2 as pb


async def remove_container(node: Node, request: pb.RemoveContainerRequest) -> pb.RemoveContainerResponse:
    """Stop and remove the container. Idempotent: also for an unknown one."""
    if pair := node.pods.find_container(request.container_id):
        await node.pods.remove_container(*pair)
    return pb.RemoveContainerResponse()
