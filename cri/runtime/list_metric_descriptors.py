# SPDX-License-Identifier: Apache-2.0
"""ListMetricDescriptors: the metrics of ListPodSandboxMetrics."""

from cri.node import Node
from cri.pb import runtime_pb2 as pb
from cri.translate import metrics


async def list_metric_descriptors(
    node: Node, request: pb.ListMetricDescriptorsRequest
) -> pb.ListMetricDescriptorsResponse:
    """The same for every pod and as long as the daemon runs."""
    return pb.ListMetricDescriptorsResponse(descriptors=metrics.descriptors())
