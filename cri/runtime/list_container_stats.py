# SPDX-License-Identifier: Apache-2.0
"""ListContainerStats: what the running containers use. Kubelet's eviction asks this."""

from cri.node import Node
from cri.pb import runtime_pb2 as pb
from cri.pods.samples import samples_of
from cri.translate import stats


async def list_container_stats(node: Node, request: pb.ListContainerStatsRequest) -> pb.ListContainerStatsResponse:
    """Those that pass the filter; those whose guest does not answer are left out."""
    return pb.ListContainerStatsResponse(stats=await found(node, request.filter))


async def found(node: Node, wanted: pb.ContainerStatsFilter) -> list[pb.ContainerStats]:
    """The list, also for the streamed twin of this call."""
    running = [
        (pod, container)
        for pod in node.pods.pods()
        for container in pod.containers.values()
        if container.is_running and stats.container_stats_pass(pod, container, wanted=wanted)
    ]
    samples = {pod.id: sample for pod, sample in await samples_of({pod.id: pod for pod, _ in running}.values())}
    return [
        stats.container_stats(pod, one, sample=samples[pod.id])
        for pod, one in running
        if pod.id in samples and one.id in samples[pod.id].containers
    ]
