# SPDX-License-Identifier: Apache-2.0
"""PodSandboxStatus, from memory."""

from cri.node import Node
from cri.pb import runtime_pb2 as pb
from cri.translate import replies


async def pod_sandbox_status(node: Node, request: pb.PodSandboxStatusRequest) -> pb.PodSandboxStatusResponse:
    """NOT_FOUND for an unknown id; verbose adds the VM."""
    pod = node.pods.get(request.pod_sandbox_id)
    info = replies.sandbox_info(pod) if request.verbose else {}
    return pb.PodSandboxStatusResponse(status=replies.sandbox_status(pod), info=info)
