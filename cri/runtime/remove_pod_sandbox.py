# SPDX-License-Identifier: Apache-2.0
"""RemovePodSandbox: stops the pod if needed, then removes it, its containers and its files."""

from cri.node import Node
from cri.pb import runtime_pb2 as pb


async def remove_pod_sandbox(node: Node, request: pb.RemovePodSandboxRequest) -> pb.RemovePodSandboxResponse:
    """Stop and remove the pod. Idempotent: also for an unknown one."""
    if pod := node.pods.find(request.pod_sandbox_id):
        await node.pods.remove(pod)
    return pb.RemovePodSandboxResponse()
