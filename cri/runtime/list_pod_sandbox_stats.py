# SPDX-License-Identifier: Apache-2.0
"""ListPodSandboxStats: what the ready pods use."""

from cri.node import Node
from cri.pb import runtime_pb2 as pb
from cri.pods.samples import samples_of
from cri.translate import stats


async def list_pod_sandbox_stats(node: Node, request: pb.ListPodSandboxStatsRequest) -> pb.ListPodSandboxStatsResponse:
    """Those that pass the filter; those whose guest does not answer are left out."""
    return pb.ListPodSandboxStatsResponse(stats=await found(node, request.filter))


async def found(node: Node, wanted: pb.PodSandboxStatsFilter) -> list[pb.PodSandboxStats]:
    """The list, also for the streamed twin of this call."""
    pods = [pod for pod in node.pods.pods() if stats.sandbox_stats_pass(pod, wanted=wanted)]
    return [stats.sandbox_stats(pod, sample) for pod, sample in await samples_of(pods)]
