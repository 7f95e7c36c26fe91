# SPDX-License-Identifier: Apache-2.0
"""ContainerStats: resource usage of a container, as its guest's kernel accounts for it."""

from cri.node import Node
from cri.pb import runtime_pb2 as pb
from cri.statistics.samples import sample_of
from cri.translate import stats


async def container_stats(node: Node, request: pb.ContainerStatsRequest) -> pb.ContainerStatsResponse:
    """NOT_FOUND for an unknown id; zeros for a container that does not run; DEADLINE_EXCEEDED for a stuck guest."""
    pod, container = node.pods.get_container(request.container_id)
    sample = await sample_of(pod) if container.is_running else None
    return pb.ContainerStatsResponse(stats=stats.container_stats(pod, container, sample=sample))
