# SPDX-License-Identifier: Apache-2.0
"""RPCs that make, change and end a pod, and PodSandboxStatus: RunPodSandbox, StopPodSandbox, RemovePodSandbox,
UpdatePodSandboxResources.
"""

import asyncio
import logging
import time
from collections.abc import Callable

from cri.live import shutdown
from cri.live.pod import LivePod
from cri.node import Node
from cri.pb import runtime_pb2 as pb
from cri.pods import resize
from cri.runtime import pod_start
from cri.store.failures import Failure
from cri.store.pods import PodRecord
from cri.translate import guest_volumes, replies, resources, sandbox, sizes
from cri.translate.guest_volumes import PodVolumes
from stage1 import placement
from stage1.errors import AlreadyExists, NetworkFailed, PodError, Unsupported
from stage1.linux import podcgroup, pressure
from stage1.vm.usage import Usage, usage

log = logging.getLogger("clearpod.pods")

CONSOLE_LINES = 300
"""Looked at for those that tell something."""


async def run_pod_sandbox(node: Node, request: pb.RunPodSandboxRequest) -> pb.RunPodSandboxResponse:
    """Boot a VM for the pod, which is listed and found by its name when its agent has answered.

    A failure is rolled back and remembered, and the same request can be made again.
    """
    begun: list[LivePod] = []
    try:
        return pb.RunPodSandboxResponse(pod_sandbox_id=await _run(node, request, failed=begun.append))
    except AlreadyExists:  # another call makes it, or has made it
        raise
    except Exception as error:
        await node.failures.add(_failure(request.config.metadata, error, begun=begun))
        raise


async def _run(node: Node, request: pb.RunPodSandboxRequest, *, failed: Callable[[LivePod], None]) -> str:
    record = await pod_record(node, request)
    asked = request.SerializeToString(deterministic=True)
    try:
        return await pod_start.run(node, record, request=asked, failed=failed)
    except NetworkFailed:
        node.network.failed()
        node.pods.pool.network_failed()
        raise


async def pod_record(node: Node, request: pb.RunPodSandboxRequest) -> PodRecord:
    """The pod that the request asks for, if this node can have it. Raises BadRequest, NotFound, Unsupported."""
    if node.host.has_scopes and request.config.linux.cgroup_parent:
        podcgroup.check_slice(request.config.linux.cgroup_parent)
    if request.runtime_handler not in node.handlers:  # its kernel may have been built since the daemon looked
        await node.find_kernels()
    facts, volumes = await asyncio.to_thread(_facts, node, request.config)
    record = sandbox.record(request, node.config, handlers=node.handlers, facts=facts, volumes=volumes)
    if record.pod.ids.length and node.lacks_user_namespaces:
        raise Unsupported(f"a pod can't have a user namespace on this node: {node.lacks_user_namespaces}")
    resize.require_host(record.pod, facts.host_mib * sizes.MIB)
    if asked := sizes.refused_vcpus(request.config, record.pod.vcpus):
        fields = {"title": f"pod {record.pod.namespace}/{record.pod.name}", "vcpus": record.pod.vcpus}
        log.warning("pod.vcpus_limited", extra={**fields, "asked": asked})
    return record


def _failure(names: pb.PodSandboxMetadata, error: Exception, *, begun: list[LivePod]) -> Failure:
    failure = Failure(
        names.namespace,
        names.name,
        names.uid,
        names.attempt,
        code=error.grpc_code if isinstance(error, PodError) else PodError.grpc_code,
        kind=type(error).__name__,
        error=str(error),
    )
    if not begun:
        return failure
    pod = begun[-1]
    return failure._replace(facts=pod.status.history, console=pod.console_tail)


def _facts(node: Node, config: pb.PodSandboxConfig) -> tuple[sizes.Facts, PodVolumes]:
    """Facts of this host that determine the VM's size, and which volumes its guest has itself. Blocks."""
    choice, place = node.host.choice, podcgroup.find(config.linux.cgroup_parent)
    volumes, host_bytes = guest_volumes.of_pod(config, node.config), pressure.memory().total
    facts = sizes.Facts(
        kept_bytes=podcgroup.protected_bytes(place),
        allowed_bytes=podcgroup.allowed(place).memory_bytes,
        host_mib=host_bytes // sizes.MIB,
        is_emulated=choice.is_emulated,
        tmpfs_bytes=guest_volumes.memory_bytes(volumes, host_bytes),
    )
    return facts, volumes


async def stop_pod_sandbox(node: Node, request: pb.StopPodSandboxRequest) -> pb.StopPodSandboxResponse:
    """Kill the containers and end the VM; the pod stays listed as not ready.

    Idempotent: also for an unknown pod, or one whose VM has ended.
    """
    if pod := node.pods.find(request.pod_sandbox_id):
        await shutdown.stop(pod)
    return pb.StopPodSandboxResponse()


async def remove_pod_sandbox(node: Node, request: pb.RemovePodSandboxRequest) -> pb.RemovePodSandboxResponse:
    """Stop the pod if needed, then remove it, its containers and its files.

    Idempotent: also for an unknown one.
    """
    if pod := node.pods.find(request.pod_sandbox_id):
        await node.pods.remove(pod)
    return pb.RemovePodSandboxResponse()


async def pod_sandbox_status(node: Node, request: pb.PodSandboxStatusRequest) -> pb.PodSandboxStatusResponse:
    """Return the pod's status from memory; verbose adds the VM, and what its VMM takes on the host.

    NOT_FOUND for an unknown id.
    """
    pod = node.pods.get(request.pod_sandbox_id)
    info = {}
    if request.verbose:
        taken = await asyncio.to_thread(usage, pod.vm.pid, pod.directory) if pod.vm and pod.is_ready else Usage()
        cgroups = await asyncio.to_thread(placement.cgroups, pod.directory)
        console = await asyncio.to_thread(pod.vm.console_tail, CONSOLE_LINES) if pod.vm else ""
        info = replies.sandbox_info(pod, taken, cgroups=cgroups, console=console)
    return pb.PodSandboxStatusResponse(
        status=replies.sandbox_status(pod),
        info=info,
        containers_statuses=[replies.container_status(one) for one in pod.containers.values()],
        timestamp=time.time_ns(),
    )


async def update_pod_sandbox_resources(
    node: Node, request: pb.UpdatePodSandboxResourcesRequest
) -> pb.UpdatePodSandboxResourcesResponse:
    """Change the limits of a pod, which are the sums of its containers'.

    Only for a ready sandbox; RESOURCE_EXHAUSTED beyond its ceiling, FAILED_PRECONDITION below what it uses.

    What the VM has is settled when it boots, and is a ceiling. Within it, new sums are put in force on the guest's
    cgroup of all containers, whose own limits the kubelet changes by itself, and on its vCPUs. To let a pod grow the
    kubelet asks before it changes the pod's cgroup, and when it is refused it asks again each second: so the answer
    comes at once, and always with the same sentence, which makes one event of the pod.
    """
    pod = node.pods.get(request.pod_sandbox_id)
    pod.require_ready()

    def make() -> PodRecord:
        return resources.updated_pod(pod.record, request, config=node.config)

    make()  # impossible limits are refused at once, without asking guest and plugins
    await pod.tools.hooks.updating_pod(pod, request)
    await resize.update(pod, make)
    pod.tools.hooks.updated_pod(pod)
    return pb.UpdatePodSandboxResourcesResponse()
