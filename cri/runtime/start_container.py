# SPDX-License-Identifier: Apache-2.0
"""StartContainer: starts a created container."""

import asyncio

from cri.containers import create as containers
from cri.node import Node
from cri.pb import runtime_pb2 as pb


async def start_container(node: Node, request: pb.StartContainerRequest) -> pb.StartContainerResponse:
    """Start the container, only from CREATED. If the command can't be run, the call fails and the container is
    EXITED, 128, StartError. If the client disconnects the call is completed nevertheless, and a repeated call gets
    its result.
    """
    pod, container = node.pods.get_container(request.container_id)
    earlier, container.starter = container.starter, asyncio.current_task()
    if earlier is not None and node.is_abandoned(earlier):
        await asyncio.shield(earlier)
    else:
        await containers.start(pod, container)
    return pb.StartContainerResponse()
