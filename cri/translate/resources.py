# SPDX-License-Identifier: Apache-2.0
"""Changes of resources: what a container or a pod was asked for before, and what it is asked for now. Pure.

Called by UpdateContainerResources and UpdatePodSandboxResources. Zero and empty mean "leave it as it is"; -1 takes a
limit away.
"""

from cri import policy
from cri.config import Config
from cri.pb import runtime_pb2 as pb
from cri.store.pods import ContainerRecord, PodRecord
from cri.translate import limits, sizes
from stage1 import placement
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
    resources = config.linux.resources
    new_limits = limits.of_container(resources, pod)._replace(
        memory=resources.memory_limit_in_bytes, memory_swap=resources.memory_swap_limit_in_bytes
    )
    changed = old.container._replace(limits=new_limits, oom_score_adj=resources.oom_score_adj)
    return old._replace(container=changed, config=config.SerializeToString())


def updated_pod(old: PodRecord, request: pb.UpdatePodSandboxResourcesRequest, *, config: Config) -> PodRecord:
    """The record with the new sums. Raises BadRequest, and NoSpace when they grow beyond the VM's ceiling."""
    before, after = pb.PodSandboxConfig.FromString(old.config), pb.PodSandboxConfig.FromString(old.config)
    for target, given in ((after.linux.resources, request.resources), (after.linux.overhead, request.overhead)):
        resources = _plain(given)
        if placement.is_raised(resources.memory_limit_in_bytes + max(after.linux.overhead.memory_limit_in_bytes, 0)):
            resources.memory_limit_in_bytes = 0  # read from the pod's cgroup, as we left it: nobody asks for it
        limits.check(resources)
        merge(target, resources)
    now, new = (sizes.needed(one, config) for one in (before, after))
    if _grows(now.memory_mib, new.memory_mib, most=old.pod.memory_mib) or _grows(
        now.vcpus, new.vcpus, most=old.pod.vcpus
    ):
        raise _beyond(old.pod, f"{new.memory_mib} MiB and {new.vcpus}")
    online = (new.vcpus if sizes.cpus(after.linux.resources) else old.pod.vcpus) if old.pod.online_vcpus else 0
    pod = old.pod._replace(
        limit_bytes=max(after.linux.resources.memory_limit_in_bytes, 0),
        overhead_bytes=max(after.linux.overhead.memory_limit_in_bytes, 0),
        online_vcpus=min(online, old.pod.vcpus),
    )
    return old._replace(pod=pod, config=after.SerializeToString())


def _plain(given: pb.LinuxContainerResources) -> pb.LinuxContainerResources:
    """Return the resources with -1 for each absent limit: the kubelet reads what is in force from the pod's cgroup,
    where no limit is a negative or a very large number, and subtracts the overhead from that.
    """
    resources = pb.LinuxContainerResources()
    resources.CopyFrom(given)
    for name in ("memory_limit_in_bytes", "cpu_quota"):
        value = getattr(resources, name)
        if value < 0 or value > limits.RANGES["memory_limit_in_bytes"][1]:
            setattr(resources, name, -1)
    return resources


def _grows(now: int, new: int, *, most: int) -> bool:
    """Whether more than `most` is asked for than before: what is too large already may be changed, and get less."""
    return new > most and new > now


def require_ceiling(old: ContainerRecord, new: ContainerRecord, *, pod: Pod) -> None:
    """Raise NoSpace for limits of one container that grow beyond what the whole VM has."""
    was, new_limits = old.container.limits, new.container.limits
    now_cpus, cpus = (min(one.cpus, sizes.processors()) for one in (was, new_limits))
    too_large = was.memory > 0 and _grows(was.memory, new_limits.memory, most=pod.memory_mib << 20)
    if not pod.host and (too_large or _grows(now_cpus, cpus, most=pod.vcpus)):
        raise _beyond(pod, f"{-(-max(new_limits.memory, 0) // sizes.MIB)} MiB and {cpus} for one container")


def _beyond(pod: Pod, what: str) -> NoSpace:
    return NoSpace(
        f"the virtual machine of pod {pod.namespace}/{pod.name} has at most {pod.memory_mib} MiB and {pod.vcpus} vCPUs"
        f" and can't grow to {what}; create the pod again with room to grow: by vm.ceiling in clearpod's configuration,"
        f" or the annotations {policy.MEMORY} and {policy.VCPUS}"
    )


def merge(target: pb.LinuxContainerResources, given: pb.LinuxContainerResources) -> None:
    """Copy the fields that are set in `given` into `target`."""
    for name in NUMBERS:
        if value := getattr(given, name):
            setattr(target, name, value)
    for key, text in given.unified.items():
        target.unified[key] = text
    if given.hugepage_limits:
        del target.hugepage_limits[:]
        target.hugepage_limits.extend(given.hugepage_limits)
