# SPDX-License-Identifier: Apache-2.0
"""StopPodSandbox: kills the containers and ends the VM; the pod stays listed as not ready."""

from cri.live import shutdown
from cri.node import Node
from cri.pb import runtime_pb2 as pb


async def stop_pod_sandbox(node: Node, request: pb.StopPodSandboxRequest) -> pb.StopPodSandboxResponse:
    """Stop the containers and the VM. Idempotent: also for an unknown pod, or one whose VM has ended."""
    if pod := node.pods.find(request.pod_sandbox_id):
        await shutdown.stop(pod)
    return pb.StopPodSandboxResponse()
