# SPDX-License-Identifier: Apache-2.0
"""UpdatePodSandboxResources: kubelet tells the new sums of a pod's containers.

The VM's size is settled when it boots, so that sums which need a larger one are refused; others are put in force on the
guest's cgroup of all containers, whose own limits kubelet changes by itself.
"""

from cri.node import Node
from cri.pb import runtime_pb2 as pb
from cri.pods import resize
from cri.translate import resources


async def update_pod_sandbox_resources(
    node: Node, request: pb.UpdatePodSandboxResourcesRequest
) -> pb.UpdatePodSandboxResourcesResponse:
    """Only for a ready sandbox; RESOURCE_EXHAUSTED when its VM is too small, FAILED_PRECONDITION below what it uses."""
    pod = node.pods.get(request.pod_sandbox_id)
    pod.require_ready()
    await pod.tools.hooks.updating_pod(pod, request)
    await resize.update(pod, lambda: resources.updated_pod(pod.record, request, config=node.config))
    pod.tools.hooks.updated_pod(pod)
    return pb.UpdatePodSandboxResourcesResponse()
