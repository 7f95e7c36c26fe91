# SPDX-License-Identifier: Apache-2.0
"""ListContainers, from memory: kubelet asks each second."""

from cri.node import Node
from cri.pb import runtime_pb2 as pb
from cri.translate import entries


async def list_containers(node: Node, request: pb.ListContainersRequest) -> pb.ListContainersResponse:
    """Return the containers that pass the filter, newest first."""
    return pb.ListContainersResponse(containers=matching(node, request.filter))


def matching(node: Node, criteria: pb.ContainerFilter) -> list[pb.Container]:
    """The list, also for the streamed twin of this call. Its entries are shared: not to be changed."""
    everything = [entries.container(pod, one) for pod in node.pods.pods() for one in pod.containers.values()]
    passing = [entry for entry in everything if entries.container_passes(entry, criteria)]
    passing.sort(key=lambda entry: entry.created_at, reverse=True)
    return passing
