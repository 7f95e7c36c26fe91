# SPDX-License-Identifier: Apache-2.0
"""UpdatePodSandboxResources: kubelet tells the new sums of a pod's containers.

The VM's size is settled when it boots, so that sums which need a larger one are refused; smaller ones are recorded.
The containers' own limits, which kubelet changes by itself, are what counts inside.
"""

from cri.node import Node
from cri.pb import runtime_pb2 as pb
from cri.translate import resources


async def update_pod_sandbox_resources(
    node: Node, request: pb.UpdatePodSandboxResourcesRequest
) -> pb.UpdatePodSandboxResourcesResponse:
    """Only for a ready sandbox; RESOURCE_EXHAUSTED when its VM is too small."""
    pod = node.pods.get(request.pod_sandbox_id)
    pod.require_ready()
    pod.record = resources.updated_pod(pod.record, request, config=node.config)
    pod.save()
    return pb.UpdatePodSandboxResourcesResponse()
