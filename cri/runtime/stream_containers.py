# SPDX-License-Identifier: Apache-2.0
"""StreamContainers: the list of ListContainers, in pieces, so that it may be larger than one message."""

from collections.abc import AsyncIterator

from cri.node import Node
from cri.pb import runtime_pb2 as pb
from cri.runtime.list_containers import found
from cri.translate.chunks import chunks


async def stream_containers(
    node: Node, request: pb.StreamContainersRequest
) -> AsyncIterator[pb.StreamContainersResponse]:
    """No piece at all for an empty list."""
    for chunk in chunks(found(node, request.filter)):
        yield pb.StreamContainersResponse(containers=chunk)
