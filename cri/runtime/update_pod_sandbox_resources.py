# SPDX-License-Identifier: Apache-2.0
"""UpdatePodSandboxResources: changes the limits of a pod, which are the sums of its containers'.

What the VM has is settled when it boots, and is a ceiling, so that sums beyond it are refused; others are put in force
on the guest's cgroup of all containers, whose own limits kubelet changes by itself, and on its vCPUs. To let a pod grow
the kubelet asks before it changes the pod's cgroup, and when it is refused it asks again each second: so the answer
comes at once, and always with the same sentence, which makes one event of the pod.
"""

from cri.node import Node
from cri.pb import runtime_pb2 as pb
from cri.pods import resize
from cri.store.pods import PodRecord
from cri.translate import resources


async def update_pod_sandbox_resources(
    node: Node, request: pb.UpdatePodSandboxResourcesRequest
) -> pb.UpdatePodSandboxResourcesResponse:
    """Only for a ready sandbox; RESOURCE_EXHAUSTED beyond its ceiling, FAILED_PRECONDITION below what it uses."""
    pod = node.pods.get(request.pod_sandbox_id)
    pod.require_ready()

    def make() -> PodRecord:
        return resources.updated_pod(pod.record, request, config=node.config)

    make()  # impossible limits are refused at once, without asking guest and plugins
    await pod.tools.hooks.updating_pod(pod, request)
    await resize.update(pod, make)
    pod.tools.hooks.updated_pod(pod)
    return pb.UpdatePodSandboxResourcesResponse()
