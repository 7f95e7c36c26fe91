# SPDX-License-Identifier: Apache-2.0
"""ListPodSandbox, from memory: kubelet asks each second."""

from cri.node import Node
from cri.pb import runtime_pb2 as pb
from cri.translate import entries


async def list_pod_sandbox(node: Node, request: pb.ListPodSandboxRequest) -> pb.ListPodSandboxResponse:
    """Return the pods that pass the filter, newest first."""
    return pb.ListPodSandboxResponse(items=matching(node, request.filter))


def matching(node: Node, criteria: pb.PodSandboxFilter) -> list[pb.PodSandbox]:
    """The list, also for the streamed twin of this call. Its entries are shared: not to be changed."""
    everything = map(entries.sandbox, reversed(node.pods.pods()))
    return [entry for entry in everything if entries.sandbox_passes(entry, criteria)]
