# SPDX-License-Identifier: Apache-2.0
"""StartContainer: starts a created container."""

from cri.containers import start
from cri.node import Node
from cri.pb import runtime_pb2 as pb


async def start_container(node: Node, request: pb.StartContainerRequest) -> pb.StartContainerResponse:
    """Start the container, only from CREATED. If the command can't be run, the guest does not answer in time or the
    client disconnects, the call fails and the container is EXITED, 128, StartError.
    """
    await start.start(*node.pods.get_container(request.container_id))
    return pb.StartContainerResponse()
