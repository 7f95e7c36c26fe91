# SPDX-License-Identifier: Apache-2.0
"""PodSandboxStats: resource usage of a pod's guest, as its kernel accounts for it."""

from cri.node import Node
from cri.pb import runtime_pb2 as pb
from cri.statistics.samples import sample_of
from cri.translate import stats


async def pod_sandbox_stats(node: Node, request: pb.PodSandboxStatsRequest) -> pb.PodSandboxStatsResponse:
    """NOT_FOUND for an unknown id; zeros for a pod that is not ready; DEADLINE_EXCEEDED for a stuck guest."""
    pod = node.pods.get(request.pod_sandbox_id)
    return pb.PodSandboxStatsResponse(stats=stats.sandbox_stats(pod, await sample_of(pod)))
