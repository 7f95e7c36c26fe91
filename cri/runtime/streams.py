# SPDX-License-Identifier: Apache-2.0
"""The streamed RPCs: the list of the RPC of the same name, in parts, so that it may be larger than one message.

An empty list has no piece. They end with their client.
"""

from collections.abc import AsyncIterator

from cri.node import Node
from cri.pb import runtime_pb2 as pb
from cri.runtime import (
    list_container_stats,
    list_containers,
    list_pod_sandbox,
    list_pod_sandbox_metrics,
    list_pod_sandbox_stats,
)
from cri.translate.chunks import chunks


async def stream_pod_sandboxes(
    node: Node, request: pb.StreamPodSandboxesRequest
) -> AsyncIterator[pb.StreamPodSandboxesResponse]:
    """The list of ListPodSandbox, in pieces, so that it may be larger than one message."""
    for chunk in chunks(list_pod_sandbox.matching(node, request.filter)):
        yield pb.StreamPodSandboxesResponse(pod_sandboxes=chunk)


async def stream_containers(
    node: Node, request: pb.StreamContainersRequest
) -> AsyncIterator[pb.StreamContainersResponse]:
    """The list of ListContainers, in pieces, so that it may be larger than one message."""
    for chunk in chunks(list_containers.matching(node, request.filter)):
        yield pb.StreamContainersResponse(containers=chunk)


async def stream_container_stats(
    node: Node, request: pb.StreamContainerStatsRequest
) -> AsyncIterator[pb.StreamContainerStatsResponse]:
    """The list of ListContainerStats, in pieces, so that it may be larger than one message."""
    for chunk in chunks(await list_container_stats.matching(node, request.filter)):
        yield pb.StreamContainerStatsResponse(container_stats=chunk)


async def stream_pod_sandbox_stats(
    node: Node, request: pb.StreamPodSandboxStatsRequest
) -> AsyncIterator[pb.StreamPodSandboxStatsResponse]:
    """The list of ListPodSandboxStats, in pieces, so that it may be larger than one message."""
    for chunk in chunks(await list_pod_sandbox_stats.matching(node, request.filter)):
        yield pb.StreamPodSandboxStatsResponse(pod_sandbox_stats=chunk)


async def stream_pod_sandbox_metrics(
    node: Node, request: pb.StreamPodSandboxMetricsRequest
) -> AsyncIterator[pb.StreamPodSandboxMetricsResponse]:
    """The list of ListPodSandboxMetrics, in pieces, so that it may be larger than one message."""
    for chunk in chunks(await list_pod_sandbox_metrics.matching(node)):
        yield pb.StreamPodSandboxMetricsResponse(pod_sandbox_metrics=chunk)
