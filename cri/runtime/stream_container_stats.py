# SPDX-License-Identifier: Apache-2.0
"""StreamContainerStats: the list of ListContainerStats, in pieces, so that it may be larger than one message."""

from collections.abc import AsyncIterator

from cri.node import Node
from cri.pb import runtime_pb2 as pb
from cri.runtime.list_container_stats import found
from cri.translate.chunks import chunks


async def stream_container_stats(
    node: Node, request: pb.StreamContainerStatsRequest
) -> AsyncIterator[pb.StreamContainerStatsResponse]:
    """No piece at all for an empty list."""
    for chunk in chunks(await found(node, request.filter)):
        yield pb.StreamContainerStatsResponse(container_stats=chunk)
