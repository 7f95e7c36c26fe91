# SPDX-License-Identifier: Apache-2.0
"""Changes of resources: what a container or a pod was asked for before, and what it is asked for now. Pure.

Called by UpdateContainerResources and UpdatePodSandboxResources. Zero and empty mean "leave it as it is"; -1 takes a
limit away.
"""

import re

from cri.config import Config
from cri.pb import runtime_pb2 as pb
from cri.store.pods import ContainerRecord, PodRecord
from cri.translate import container, sandbox
from stage1.errors import BadRequest, NoSpace
from stage1.pod.model import Pod

NUMBERS = (
    "cpu_period", "cpu_quota", "cpu_shares", "memory_limit_in_bytes", "memory_swap_limit_in_bytes", "oom_score_adj",
    "cpuset_cpus", "cpuset_mems",
)  # fmt: skip
RANGES = {
    "cpu_period": (1000, 1_000_000),
    "cpu_shares": (2, 262_144),
    "oom_score_adj": (-1000, 1000),
    "memory_limit_in_bytes": (1 << 20, 1 << 60),
    "memory_swap_limit_in_bytes": (1 << 20, 1 << 60),
    "cpu_quota": (1000, 1 << 40),
}
"""What the kernel takes; -1, for no limit, is checked apart."""
UNLIMITED = {"memory_limit_in_bytes", "memory_swap_limit_in_bytes", "cpu_quota"}
CPU_LIST = re.compile(r"\d{1,5}(-\d{1,5})?(,\d{1,5}(-\d{1,5})?)*")
UNIFIED_KEY = re.compile(r"[a-z]+\.[a-z0-9_.]+")


def updated_container(old: ContainerRecord, given: pb.LinuxContainerResources, *, pod: Pod) -> ContainerRecord:
    """The record with the new limits. Raises BadRequest, and Unsupported for huge pages."""
    check(given, pod)
    config = pb.ContainerConfig.FromString(old.config)
    merge(config.linux.resources, given)
    limits = container.limits(config.linux.resources)
    said = config.linux.resources
    limits = limits._replace(memory=said.memory_limit_in_bytes, memory_swap=said.memory_swap_limit_in_bytes)
    changed = old.container._replace(limits=limits, oom_score_adj=said.oom_score_adj)
    return old._replace(container=changed, config=config.SerializeToString())


def updated_pod(old: PodRecord, request: pb.UpdatePodSandboxResourcesRequest, *, config: Config) -> PodRecord:
    """The record with the new sums. Raises BadRequest, and NoSpace when the pod's VM is too small for them."""
    wanted = pb.PodSandboxConfig.FromString(old.config)
    for target, given in ((wanted.linux.resources, request.resources), (wanted.linux.overhead, request.overhead)):
        check(given, old.pod)
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


def check(given: pb.LinuxContainerResources, pod: Pod) -> None:
    """Raise BadRequest for what no kernel would take, in words that name the field."""
    for name, (low, high) in RANGES.items():
        value = getattr(given, name)
        if value and not low <= value <= high and not (value == -1 and name in UNLIMITED):
            raise BadRequest(f"{name} must be between {low} and {high}, but it is {value}")
    for name, count in (("cpuset_cpus", pod.vcpus), ("cpuset_mems", 1)):
        text = getattr(given, name)
        if text and not CPU_LIST.fullmatch(text):
            raise BadRequest(f"{name} must be a list such as 0-2,5, but it is {text!r}")
        if text and max(int(part) for part in re.findall(r"\d+", text)) >= count:
            raise BadRequest(f"{name} is {text}, but the pod's virtual machine has only {count}, from 0")
    for key in given.unified:
        if not UNIFIED_KEY.fullmatch(key):
            raise BadRequest(f"{key!r} in unified can't be a file of a cgroup, such as memory.high")
