# SPDX-License-Identifier: Apache-2.0
"""StreamPodSandboxStats: the list of ListPodSandboxStats, in pieces, so that it may be larger than one message."""

from collections.abc import AsyncIterator

from cri.node import Node
from cri.pb import runtime_pb2 as pb
from cri.runtime.list_pod_sandbox_stats import found
from cri.translate.chunks import chunks


async def stream_pod_sandbox_stats(
    node: Node, request: pb.StreamPodSandboxStatsRequest
) -> AsyncIterator[pb.StreamPodSandboxStatsResponse]:
    """No piece at all for an empty list."""
    for chunk in chunks(await found(node, request.filter)):
        yield pb.StreamPodSandboxStatsResponse(pod_sandbox_stats=chunk)
