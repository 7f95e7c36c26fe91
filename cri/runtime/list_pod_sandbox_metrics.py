# SPDX-License-Identifier: Apache-2.0
"""ListPodSandboxMetrics: metrics of the ready pods, those of cAdvisor, open files and sockets included."""

from cri.node import Node
from cri.pb import runtime_pb2 as pb
from cri.statistics.answers import each, fitting
from cri.statistics.samples import samples_of
from cri.translate import metrics


async def list_pod_sandbox_metrics(
    node: Node, request: pb.ListPodSandboxMetricsRequest
) -> pb.ListPodSandboxMetricsResponse:
    """Pods whose guest does not answer are left out, and so are the largest when one message can't hold all."""
    fit = fitting(await matching(node), lambda one: one.pod_sandbox_id)
    return pb.ListPodSandboxMetricsResponse(pod_metrics=fit)


async def matching(node: Node) -> list[pb.PodSandboxMetrics]:
    """The list, also for the streamed twin of this call."""
    samples = await samples_of(node.pods.pods(), files=True)
    return await each(samples, lambda pod, sample: [metrics.sandbox_metrics(pod, sample)])
