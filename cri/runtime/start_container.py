# SPDX-License-Identifier: Apache-2.0
"""StartContainer: runs what was created."""

import asyncio

from cri.containers import create as containers
from cri.node import Node
from cri.pb import runtime_pb2 as pb


async def start_container(node: Node, request: pb.StartContainerRequest) -> pb.StartContainerResponse:
    """Only from CREATED; a command that can't be run is an error and leaves EXITED, 128, StartError.

    A call whose client gave up goes on, and the next one gets its answer.
    """
    pod, container = node.pods.get_container(request.container_id)
    earlier, container.starter = container.starter, asyncio.current_task()
    if earlier is not None and node.is_abandoned(earlier):
        await asyncio.shield(earlier)
    else:
        await containers.start(pod, container)
    return pb.StartContainerResponse()
