# SPDX-License-Identifier: Apache-2.0
"""StreamPodSandboxMetrics: the list of ListPodSandboxMetrics, in pieces, so that it may be larger than one message."""

from collections.abc import AsyncIterator

from cri.node import Node
from cri.pb import runtime_pb2 as pb
from cri.runtime.list_pod_sandbox_metrics import found
from cri.translate.chunks import chunks


async def stream_pod_sandbox_metrics(
    node: Node, request: pb.StreamPodSandboxMetricsRequest
) -> AsyncIterator[pb.StreamPodSandboxMetricsResponse]:
    """No piece at all for an empty list."""
    for chunk in chunks(await found(node)):
        yield pb.StreamPodSandboxMetricsResponse(pod_sandbox_metrics=chunk)
