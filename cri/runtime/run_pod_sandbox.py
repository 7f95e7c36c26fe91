# SPDX-License-Identifier: Apache-2.0
"""RunPodSandbox: boots a VM. The pod is listed, and can be found by its name, when its agent has answered."""

import asyncio
import logging
from collections.abc import Callable

from cri.live.pod import LivePod
from cri.node import Node
from cri.pb import runtime_pb2 as pb
from cri.pods import resize
from cri.pods.table import BringUp
from cri.policy import FORK_OF
from cri.snapshots import copies
from cri.store.failures import Failure
from cri.store.pods import PodRecord
from cri.translate import guest_volumes, sandbox, sizes
from cri.translate.guest_volumes import PodVolumes
from stage1.errors import AlreadyExists, NetworkFailed, PodError, Unsupported
from stage1.linux import podcgroup, pressure

log = logging.getLogger("clearpod.pods")


async def run_pod_sandbox(node: Node, request: pb.RunPodSandboxRequest) -> pb.RunPodSandboxResponse:
    """Make the pod. A failure is rolled back and remembered, and the same request can be made again."""
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
    bring_up = node.snapshots.of_request(record) or _fork_of_request(node, record)
    try:
        return await node.pods.run(record, asked, failed=failed, bring_up=bring_up)
    except NetworkFailed:
        node.network.failed()
        node.pods.pool.network_failed()
        raise


def _fork_of_request(node: Node, record: PodRecord) -> BringUp | None:
    """The function that brings the requested pod up, if it is to be a copy: its VM starts while the original is saved.
    It raises what `copies.original`, `require_forkable`, `fork` and `bring_up` raise.
    """
    word = pb.PodSandboxConfig.FromString(record.config).annotations.get(FORK_OF, "")

    async def bring_up(copy: LivePod) -> None:
        former = copies.original(node.pods.pods(), word, namespace=record.pod.namespace)
        await node.pods.adopted(former.id, "")  # a daemon that has just begun does not know its guest yet
        await copies.require_forkable(former)
        async with copies.being_forked(former, node.images, name=copy.id) as (path, saving):
            await copies.bring_up(copy, path, saving=saving)

    return bring_up if word else None


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
