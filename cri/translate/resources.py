# SPDX-License-Identifier: Apache-2.0
"""Changes of resources: what a container or a pod was asked for before, and what it is asked for now. Pure.

Called by UpdateContainerResources and UpdatePodSandboxResources. Zero and empty mean "leave it as it is"; -1 takes a
limit away.
"""

from cri.config import Config
from cri.pb import runtime_pb2 as pb
from cri.store.pods import ContainerRecord, PodRecord
from cri.translate import limits, sandbox
from stage1.errors import NoSpace
from stage1.pod.model import Pod

NUMBERS = (
    "cpu_period", "cpu_quota", "cpu_shares", "memory_limit_in_bytes", "memory_swap_limit_in_bytes", "oom_score_adj",
    "cpuset_cpus", "cpuset_mems",
)  # fmt: skip


def updated_container(old: ContainerRecord, given: pb.LinuxContainerResources, *, pod: Pod) -> ContainerRecord:
    """The record with the new limits. Raises BadRequest, and Unsupported for huge pages."""
    limits.check(given)
    config = pb.ContainerConfig.FromString(old.config)
    merge(config.linux.resources, given)
    said = config.linux.resources
    wanted = limits.of_container(said, pod)._replace(
        memory=said.memory_limit_in_bytes, memory_swap=said.memory_swap_limit_in_bytes
    )
    changed = old.container._replace(limits=wanted, oom_score_adj=said.oom_score_adj)
    return old._replace(container=changed, config=config.SerializeToString())


def updated_pod(old: PodRecord, request: pb.UpdatePodSandboxResourcesRequest, *, config: Config) -> PodRecord:
    """The record with the new sums. Raises BadRequest, and NoSpace when the pod's VM is too small for them."""
    wanted = pb.PodSandboxConfig.FromString(old.config)
    for target, given in ((wanted.linux.resources, request.resources), (wanted.linux.overhead, request.overhead)):
        limits.check(given)
        merge(target, given)
    memory_mib, vcpus = sandbox.size(wanted, config)
    if memory_mib > old.pod.memory_mib or vcpus > old.pod.vcpus:
        raise NoSpace(
            f"the virtual machine of pod {old.pod.namespace}/{old.pod.name} has {old.pod.memory_mib} MiB and"
            f" {old.pod.vcpus} vCPUs and can't grow to {memory_mib} MiB and {vcpus}; make the pod anew"
        )
    return old._replace(config=wanted.SerializeToString())


def merge(target: pb.LinuxContainerResources, given: pb.LinuxContainerResources) -> None:
    """Put what `given` says into `target`."""
    for name in NUMBERS:
        if value := getattr(given, name):
            setattr(target, name, value)
    for key, text in given.unified.items():
        target.unified[key] = text
    if given.hugepage_limits:
        del target.hugepage_limits[:]
        target.hugepage_limits.extend(given.hugepage_limits)
