# SPDX-License-Identifier: Apache-2.0
"""RPCs that list pods and containers, their usage and metrics, from memory or from samples of the guests; each with its
streamed twin, which sends the same list in parts, so that it may be larger than one message: an empty list has no part.
Also ContainerStats and PodSandboxStats, the usage of one, and ListMetricDescriptors.

The kubelet asks for pods and containers each second.
"""

from collections.abc import AsyncIterator

from cri.live.container import LiveContainer
from cri.live.pod import LivePod
from cri.node import Node
from cri.pb import runtime_pb2 as pb
from cri.statistics.answers import each, fitting
from cri.statistics.sample import Sample
from cri.statistics.samples import sample_of, samples_of
from cri.translate import entries, metrics, stats
from cri.translate.chunks import chunks


async def list_pod_sandbox(node: Node, request: pb.ListPodSandboxRequest) -> pb.ListPodSandboxResponse:
    """Return the pods that pass the filter, newest first."""
    return pb.ListPodSandboxResponse(items=_pods(node, request.filter))


async def stream_pod_sandboxes(
    node: Node, request: pb.StreamPodSandboxesRequest
) -> AsyncIterator[pb.StreamPodSandboxesResponse]:
    """The list of ListPodSandbox, in pieces, so that it may be larger than one message."""
    for chunk in chunks(_pods(node, request.filter)):
        yield pb.StreamPodSandboxesResponse(pod_sandboxes=chunk)


def _pods(node: Node, criteria: pb.PodSandboxFilter) -> list[pb.PodSandbox]:
    """The pods that pass the filter, newest first. Its entries are shared: not to be changed."""
    everything = map(entries.sandbox, reversed(node.pods.pods()))
    return [entry for entry in everything if entries.sandbox_passes(entry, criteria)]


async def list_containers(node: Node, request: pb.ListContainersRequest) -> pb.ListContainersResponse:
    """Return the containers that pass the filter, newest first."""
    return pb.ListContainersResponse(containers=_containers(node, request.filter))


async def stream_containers(
    node: Node, request: pb.StreamContainersRequest
) -> AsyncIterator[pb.StreamContainersResponse]:
    """The list of ListContainers, in pieces, so that it may be larger than one message."""
    for chunk in chunks(_containers(node, request.filter)):
        yield pb.StreamContainersResponse(containers=chunk)


def _containers(node: Node, criteria: pb.ContainerFilter) -> list[pb.Container]:
    """The containers that pass the filter, newest first. Its entries are shared: not to be changed."""
    everything = [entries.container(pod, one) for pod in node.pods.pods() for one in pod.containers.values()]
    passing = [entry for entry in everything if entries.container_passes(entry, criteria)]
    passing.sort(key=lambda entry: entry.created_at, reverse=True)
    return passing


async def container_stats(node: Node, request: pb.ContainerStatsRequest) -> pb.ContainerStatsResponse:
    """Return the resource usage of a container, as its guest's kernel accounts for it.

    NOT_FOUND for an unknown id; zeros for a container that does not run; DEADLINE_EXCEEDED for a stuck guest.
    """
    pod, container = node.pods.get_container(request.container_id)
    sample = await sample_of(pod) if container.is_running else None
    return pb.ContainerStatsResponse(stats=stats.container_stats(pod, container, sample=sample))


async def list_container_stats(node: Node, request: pb.ListContainerStatsRequest) -> pb.ListContainerStatsResponse:
    """Return the resource usage of all containers that pass the filter; the kubelet's eviction uses it, and skips
    stopped ones.

    Those whose guest does not answer are left out, and as many are listed as one message holds.
    """
    owners = {container: pod.id for pod in node.pods.pods() for container in pod.containers}
    fit = fitting(await _container_stats(node, request.filter), lambda one: owners.get(one.attributes.id, ""))
    return pb.ListContainerStatsResponse(stats=fit)


async def stream_container_stats(
    node: Node, request: pb.StreamContainerStatsRequest
) -> AsyncIterator[pb.StreamContainerStatsResponse]:
    """The list of ListContainerStats, in pieces, so that it may be larger than one message."""
    for chunk in chunks(await _container_stats(node, request.filter)):
        yield pb.StreamContainerStatsResponse(container_stats=chunk)


async def _container_stats(node: Node, criteria: pb.ContainerStatsFilter) -> list[pb.ContainerStats]:
    """The usage of containers that pass the filter. Those that do not run have zeros, and no guest is asked."""
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


async def pod_sandbox_stats(node: Node, request: pb.PodSandboxStatsRequest) -> pb.PodSandboxStatsResponse:
    """Return the resource usage of a pod's guest, as its kernel accounts for it.

    NOT_FOUND for an unknown id; zeros for a pod that is not ready; DEADLINE_EXCEEDED for a stuck guest.
    """
    pod = node.pods.get(request.pod_sandbox_id)
    return pb.PodSandboxStatsResponse(stats=stats.sandbox_stats(pod, await sample_of(pod)))


async def list_pod_sandbox_stats(node: Node, request: pb.ListPodSandboxStatsRequest) -> pb.ListPodSandboxStatsResponse:
    """Return the resource usage of all ready pods that pass the filter.

    Those whose guest does not answer are left out, and as many are listed as one message holds.
    """
    fit = fitting(await _pod_stats(node, request.filter), lambda one: one.attributes.id)
    return pb.ListPodSandboxStatsResponse(stats=fit)


async def stream_pod_sandbox_stats(
    node: Node, request: pb.StreamPodSandboxStatsRequest
) -> AsyncIterator[pb.StreamPodSandboxStatsResponse]:
    """The list of ListPodSandboxStats, in pieces, so that it may be larger than one message."""
    for chunk in chunks(await _pod_stats(node, request.filter)):
        yield pb.StreamPodSandboxStatsResponse(pod_sandbox_stats=chunk)


async def _pod_stats(node: Node, criteria: pb.PodSandboxStatsFilter) -> list[pb.PodSandboxStats]:
    """The usage of ready pods that pass the filter and whose guest answers."""
    pods = [pod for pod in node.pods.pods() if stats.sandbox_stats_pass(pod, criteria=criteria)]
    return await each(await samples_of(pods), lambda pod, sample: [stats.sandbox_stats(pod, sample)])


async def list_metric_descriptors(
    node: Node, request: pb.ListMetricDescriptorsRequest
) -> pb.ListMetricDescriptorsResponse:
    """Return the metrics of ListPodSandboxMetrics: the same for every pod and as long as the daemon runs."""
    return pb.ListMetricDescriptorsResponse(descriptors=metrics.descriptors())


async def list_pod_sandbox_metrics(
    node: Node, request: pb.ListPodSandboxMetricsRequest
) -> pb.ListPodSandboxMetricsResponse:
    """Return metrics of the ready pods, those of cAdvisor, open files and sockets included.

    Pods whose guest does not answer are left out, and so are the largest when one message can't hold all.
    """
    fit = fitting(await _pod_metrics(node), lambda one: one.pod_sandbox_id)
    return pb.ListPodSandboxMetricsResponse(pod_metrics=fit)


async def stream_pod_sandbox_metrics(
    node: Node, request: pb.StreamPodSandboxMetricsRequest
) -> AsyncIterator[pb.StreamPodSandboxMetricsResponse]:
    """The list of ListPodSandboxMetrics, in pieces, so that it may be larger than one message."""
    for chunk in chunks(await _pod_metrics(node)):
        yield pb.StreamPodSandboxMetricsResponse(pod_sandbox_metrics=chunk)


async def _pod_metrics(node: Node) -> list[pb.PodSandboxMetrics]:
    """The metrics of ready pods whose guest answers."""
    samples = await samples_of(node.pods.pods(), files=True)
    return await each(samples, lambda pod, sample: [metrics.sandbox_metrics(pod, sample)])
