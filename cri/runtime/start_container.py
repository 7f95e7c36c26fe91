# SPDX-License-Identifier: Apache-2.0
"""StartContainer: runs what was created."""

from cri.node import Node
from cri.pb import runtime_pb2 as pb
from cri.pods import containers


async def start_container(node: Node, request: pb.StartContainerRequest) -> pb.StartContainerResponse:
    """Only from CREATED; a command that can't be run is an error and leaves EXITED, 128, StartError."""
    await containers.start(*node.pods.get_container(request.container_id))
    return pb.StartContainerResponse()
