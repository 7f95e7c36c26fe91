# SPDX-License-Identifier: Apache-2.0
"""ListPodSandboxMetrics: cAdvisor's metrics of the ready pods, open files and sockets included."""

from cri.node import Node
from cri.pb import runtime_pb2 as pb
from cri.pods.samples import samples_of
from cri.translate import metrics


async def list_pod_sandbox_metrics(
    node: Node, request: pb.ListPodSandboxMetricsRequest
) -> pb.ListPodSandboxMetricsResponse:
    """Pods whose guest does not answer are left out."""
    return pb.ListPodSandboxMetricsResponse(pod_metrics=await found(node))


async def found(node: Node) -> list[pb.PodSandboxMetrics]:
    """The list, also for the streamed twin of this call."""
    return [metrics.sandbox_metrics(pod, sample) for pod, sample in await samples_of(node.pods.pods(), files=True)]
