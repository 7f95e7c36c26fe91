# SPDX-License-Identifier: Apache-2.0
"""ListContainerStats: resource usage of all containers. The kubelet's eviction uses it, and skips stopped ones."""

from cri.live.container import LiveContainer
from cri.live.pod import LivePod
from cri.node import Node
from cri.pb import runtime_pb2 as pb
from cri.statistics.answers import each, fitting
from cri.statistics.sample import Sample
from cri.statistics.samples import samples_of
from cri.translate import stats


async def list_container_stats(node: Node, request: pb.ListContainerStatsRequest) -> pb.ListContainerStatsResponse:
    """Return numbers of the containers that pass the filter, without those whose guest does not answer, and as many as
    one message holds.
    """
    owners = {container: pod.id for pod in node.pods.pods() for container in pod.containers}
    fit = fitting(await matching(node, request.filter), lambda one: owners.get(one.attributes.id, ""))
    return pb.ListContainerStatsResponse(stats=fit)


async def matching(node: Node, criteria: pb.ContainerStatsFilter) -> list[pb.ContainerStats]:
    """The list, also for the streamed twin of this call. Those that do not run have zeros, and no guest is asked."""
    running: dict[str, list[LiveContainer]] = {}
    others = []
    for pod in node.pods.pods():
        for one in pod.containers.values():
            if not stats.container_stats_pass(pod, one, criteria=criteria):
                continue
            if one.is_running:
                running.setdefault(pod.id, []).append(one)
            else:
                others.append(stats.container_stats(pod, one, sample=None))

    def made(pod: LivePod, sample: Sample) -> list[pb.ContainerStats]:
        known = (one for one in running[pod.id] if one.id in sample.containers)
        return [stats.container_stats(pod, one, sample=sample) for one in known]

    asked = (pod for pod in node.pods.pods() if pod.id in running)
    return await each(await samples_of(asked), made) + others
