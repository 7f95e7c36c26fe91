# SPDX-License-Identifier: Apache-2.0
"""ListPodSandbox, from memory: kubelet asks each second."""

from cri.node import Node
from cri.pb import runtime_pb2 as pb
from cri.translate import replies


async def list_pod_sandbox(node: Node, request: pb.ListPodSandboxRequest) -> pb.ListPodSandboxResponse:
    """Those that pass the filter, newest first."""
    return pb.ListPodSandboxResponse(items=found(node, request.filter))


def found(node: Node, wanted: pb.PodSandboxFilter) -> list[pb.PodSandbox]:
    """The list, also for the streamed twin of this call."""
    passing = [pod for pod in reversed(node.pods.pods()) if replies.sandbox_passes(pod, wanted)]
    return [replies.sandbox_item(pod) for pod in passing]
