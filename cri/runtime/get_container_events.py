# SPDX-License-Identifier: Apache-2.0
"""GetContainerEvents: streams events of containers and pods, until the client disconnects."""

from collections.abc import AsyncIterator

from cri.node import Node
from cri.pb import runtime_pb2 as pb
from cri.translate.events import event


async def get_container_events(node: Node, request: pb.GetEventsRequest) -> AsyncIterator[pb.ContainerEventResponse]:
    """RESOURCE_EXHAUSTED for a client that reads too slowly; nothing else notices it."""
    subscription = node.events.subscribe(event)
    try:
        async for one in subscription:
            yield one
    finally:
        subscription.close()
