# SPDX-License-Identifier: Apache-2.0
"""SuspendPod: saves the guest to a file and ends its VMM; the pod stays listed."""

from cri.live import suspension
from cri.node import Node
from cri.pb import runtime_pb2 as pb


async def suspend_pod(node: Node, request: pb.StopPodSandboxRequest) -> pb.StopPodSandboxResponse:
    """Suspend the pod. Idempotent. NOT_FOUND for an unknown id; FAILED_PRECONDITION has the reason when it can't be
    suspended.
    """
    await suspension.suspend(node.pods.get(request.pod_sandbox_id), node.images)
    return pb.StopPodSandboxResponse()
