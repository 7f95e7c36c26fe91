# SPDX-License-Identifier: Apache-2.0
"""ResumePod: resumes a suspended pod in a new VM."""

from cri.live import suspension
from cri.node import Node
from cri.pb import runtime_pb2 as pb


async def resume_pod(node: Node, request: pb.StopPodSandboxRequest) -> pb.StopPodSandboxResponse:
    """Resume the pod. Idempotent. NOT_FOUND for an unknown id; FAILED_PRECONDITION has the reason when it can't be
    resumed.
    """
    await suspension.resume(node.pods.get(request.pod_sandbox_id))
    return pb.StopPodSandboxResponse()
