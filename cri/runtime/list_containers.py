# SPDX-License-Identifier: Apache-2.0
"""ListContainers, from memory: kubelet asks each second."""

from cri.node import Node
from cri.pb import runtime_pb2 as pb
from cri.translate import replies


async def list_containers(node: Node, request: pb.ListContainersRequest) -> pb.ListContainersResponse:
    """Those that pass the filter, newest first."""
    return pb.ListContainersResponse(containers=found(node, request.filter))


def found(node: Node, wanted: pb.ContainerFilter) -> list[pb.Container]:
    """The list, also for the streamed twin of this call."""
    everything = [(pod, container) for pod in node.pods.pods() for container in pod.containers.values()]
    passing = [pair for pair in everything if replies.container_passes(*pair, wanted=wanted)]
    passing.sort(key=lambda pair: pair[1].record.created_ns, reverse=True)
    return [replies.container_item(*pair) for pair in passing]
