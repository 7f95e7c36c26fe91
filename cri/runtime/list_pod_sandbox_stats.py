# SPDX-License-Identifier: Apache-2.0
"""ListPodSandboxStats: resource usage of all ready pods."""

from cri.node import Node
from cri.pb import runtime_pb2 as pb
from cri.statistics.answers import each, fitting
from cri.statistics.samples import samples_of
from cri.translate import stats


async def list_pod_sandbox_stats(node: Node, request: pb.ListPodSandboxStatsRequest) -> pb.ListPodSandboxStatsResponse:
    """Return numbers of the pods that pass the filter, without those whose guest does not answer, and as many as one
    message holds.
    """
    fit = fitting(await matching(node, request.filter), lambda one: one.attributes.id)
    return pb.ListPodSandboxStatsResponse(stats=fit)


async def matching(node: Node, criteria: pb.PodSandboxStatsFilter) -> list[pb.PodSandboxStats]:
    """The list, also for the streamed twin of this call."""
    pods = [pod for pod in node.pods.pods() if stats.sandbox_stats_pass(pod, criteria=criteria)]
    return await each(await samples_of(pods), lambda pod, sample: [stats.sandbox_stats(pod, sample)])
