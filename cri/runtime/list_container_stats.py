# SPDX-License-Identifier: Apache-2.0
"""ListContainerStats: what the running containers use. Kubelet's eviction asks this."""

from cri.node import Node
from cri.pb import runtime_pb2 as pb
from cri.pods.answers import each, fitting
from cri.pods.pod import LivePod
from cri.pods.samples import samples_of
from cri.stats import Sample
from cri.translate import stats


async def list_container_stats(node: Node, request: pb.ListContainerStatsRequest) -> pb.ListContainerStatsResponse:
    """Those that pass the filter; those whose guest does not answer are left out, and what one message can't hold."""
    owners = {container: pod.id for pod in node.pods.pods() for container in pod.containers}
    fit = fitting(await found(node, request.filter), lambda one: owners.get(one.attributes.id, ""))
    return pb.ListContainerStatsResponse(stats=fit)


async def found(node: Node, wanted: pb.ContainerStatsFilter) -> list[pb.ContainerStats]:
    """The list, also for the streamed twin of this call."""
    running = {
        pod.id: [
            container
            for container in pod.containers.values()
            if container.is_running and stats.container_stats_pass(pod, container, wanted=wanted)
        ]
        for pod in node.pods.pods()
    }

    def made(pod: LivePod, sample: Sample) -> list[pb.ContainerStats]:
        known = [one for one in running[pod.id] if one.id in sample.containers]
        return [stats.container_stats(pod, one, sample=sample) for one in known]

    return await each(await samples_of(pod for pod in node.pods.pods() if running.get(pod.id)), made)
