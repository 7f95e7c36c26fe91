# SPDX-License-Identifier: Apache-2.0
"""StreamPodSandboxes: the list of ListPodSandbox, in pieces, so that it may be larger than one message."""

from collections.abc import AsyncIterator

from cri.node import Node
from cri.pb import runtime_pb2 as pb
from cri.runtime.list_pod_sandbox import found
from cri.translate.chunks import chunks


async def stream_pod_sandboxes(
    node: Node, request: pb.StreamPodSandboxesRequest
) -> AsyncIterator[pb.StreamPodSandboxesResponse]:
    """No piece at all for an empty list."""
    for chunk in chunks(found(node, request.filter)):
        yield pb.StreamPodSandboxesResponse(pod_sandboxes=chunk)
