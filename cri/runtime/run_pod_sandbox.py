# SPDX-License-Identifier: Apache-2.0
"""RunPodSandbox: boots a VM. The pod is listed, and its name answers, only when its agent has."""

import asyncio

from cri.node import Node
from cri.pb import runtime_pb2 as pb
from cri.pods import resize
from cri.translate import sandbox, sizes
from stage1.errors import NetworkFailed, Unsupported
from stage1.linux import podcgroup, pressure


async def run_pod_sandbox(node: Node, request: pb.RunPodSandboxRequest) -> pb.RunPodSandboxResponse:
    """Make the pod. A failure is rolled back, and the same request can be made again."""
    if node.host.has_scopes and request.config.linux.cgroup_parent:
        podcgroup.check_slice(request.config.linux.cgroup_parent)
    facts = await asyncio.to_thread(_facts, node, request.config.linux.cgroup_parent)
    record = sandbox.record(request, node.config, handlers=node.handlers, facts=facts)
    if record.pod.ids.length and node.lacks_user_namespaces:
        raise Unsupported(f"a pod can't have a user namespace on this node: {node.lacks_user_namespaces}")
    resize.require_host(record.pod)
    try:
        made = await node.pods.run(record, request.SerializeToString(deterministic=True))
    except NetworkFailed:
        node.network.failed()
        raise
    return pb.RunPodSandboxResponse(pod_sandbox_id=made)


def _facts(node: Node, cgroup_parent: str) -> sizes.Facts:
    """What this host says that decides how large the VM is."""
    choice, place = node.host.choice, podcgroup.find(cgroup_parent)
    return sizes.Facts(
        kept_bytes=podcgroup.protected_bytes(cgroup_parent),
        allowed_bytes=podcgroup.allowed(place).memory_bytes,
        host_mib=pressure.memory().total // sizes.MIB,
        is_emulated=choice.is_emulated,
    )
