# SPDX-License-Identifier: Apache-2.0
"""How large a pod's VM is: what its containers need now, and its ceiling, up to which they may grow while it runs. Pure
but for the number of processors.

Called by `sandbox` for a new pod and by `resources` for a change of limits. It must not know how a VM gets its size.
"""

import math
import os
from typing import NamedTuple

from cri import policy
from cri.config import Config
from cri.pb import runtime_pb2 as pb
from cri.translate import annotations
from stage1.errors import BadRequest
from stage1.pod.model import DEFAULT_PERIOD_US
from stage1.vm import limits

MIB = 1 << 20
KEPT = ("memory.min", "memory.low")
"""The keys by which the kubelet passes requests, if it has MemoryQoS; LinuxContainerResources has no other field for
them.
"""
TMPFS_PART = 4
"""One part in so many of the host's memory is the most that emptyDirs in memory add to a VM."""
MOST_ONLINE = 64
"""The guest's kernel knows no more processors."""
_KNOWN_BY = 54
"""The fraction of unused memory that a guest's kernel needs to manage it, mostly for page structs."""
_MOST_DIGITS = 15


class Facts(NamedTuple):
    """Facts of the host: the bytes that the pod's cgroup guarantees and allows, the host's memory, whether guests are
    emulated, and the bytes that the pod's emptyDirs in memory may take where a size was asked for. 0 if unknown.
    """

    kept_bytes: int = 0
    allowed_bytes: int = 0
    host_mib: int = 0
    is_emulated: bool = False
    tmpfs_bytes: int = 0


class Size(NamedTuple):
    """The size of a VM. `online_vcpus` is how many run from the start, 0 for all."""

    memory_mib: int
    vcpus: int
    online_vcpus: int = 0


def needed(sandbox: pb.PodSandboxConfig, config: Config, *, facts: Facts = Facts()) -> Size:  # noqa: B008 - a constant
    """What the containers may use now: the default plus the pod's limits or requests, whichever are larger, and its
    overhead.

    These come on top of the default, which is for the guest itself: else the guest as a whole would run out of memory
    before a container meets its own limit. A limit includes emptyDirs in memory; without one they come on top, up to a
    part of the host's memory.
    """
    overhead = max(sandbox.linux.overhead.memory_limit_in_bytes, 0)
    memory_mib = config.vm.memory_mib + -(-(_containers(sandbox, facts) + overhead) // MIB)
    if sandbox.linux.resources.memory_limit_in_bytes <= 0 and facts.tmpfs_bytes:
        most_mib = config.limits.max_pod_memory_mib or policy.MOST_MEMORY_MIB
        tmpfs_mib = min(-(-facts.tmpfs_bytes // MIB), facts.host_mib // TMPFS_PART, most_mib - memory_mib)
        memory_mib += max(tmpfs_mib, 0)
    return Size(memory_mib, min(max(config.vm.vcpus, cpus(sandbox.linux.resources)), processors()))


def ceiling(sandbox: pb.PodSandboxConfig, config: Config, *, facts: Facts = Facts()) -> Size:  # noqa: B008
    """The VM's size at boot when no annotation sets it: vm.ceiling times the limits, and page structs for that.

    It is never less than `needed`, and else within limits.max_pod_memory_mib, the host's memory, and the limit of the
    pod's cgroup, in which the VM has to fit.
    """
    now, quota = needed(sandbox, config, facts=facts), sandbox.linux.resources
    more_mib = int(_containers(sandbox, facts) * (config.vm.ceiling - 1)) // MIB
    bounds = (config.limits.max_pod_memory_mib, facts.host_mib, _in_cgroup_mib(sandbox, now, facts=facts))
    most_mib = min((bound for bound in bounds if bound), default=policy.MOST_MEMORY_MIB)
    memory_mib = max(now.memory_mib, min(now.memory_mib + more_mib + -(-more_mib // _KNOWN_BY), most_mib))
    vcpus = max(now.vcpus, min(cpus(quota, config.vm.ceiling), MOST_ONLINE))
    return Size(memory_mib, vcpus, now.vcpus if now.vcpus < vcpus else 0)


def of_pod(sandbox: pb.PodSandboxConfig, config: Config, *, usual: Size) -> Size:
    """The `usual` size (`ceiling`), or that of the annotations; vCPUs that an annotation requests are all online.

    Raises BadRequest beyond limits.max_pod_memory_mib.
    """
    size, most = usual, config.limits.max_pod_memory_mib
    if memory_mib := annotations.number(sandbox, policy.MEMORY):
        size = size._replace(memory_mib=memory_mib)
    if most and size.memory_mib > most:
        raise BadRequest(f"the pod would need {size.memory_mib} MiB, and limits.max_pod_memory_mib allows {most} MiB")
    if vcpus := annotations.number(sandbox, policy.VCPUS):
        size = size._replace(vcpus=min(vcpus, processors()), online_vcpus=0)
    return size


def refused_vcpus(sandbox: pb.PodSandboxConfig, vcpus: int) -> int:
    """Return how many vCPUs the annotation asks for where that is more than the `vcpus` of the VM, else 0."""
    asked = annotations.number(sandbox, policy.VCPUS) or 0
    return asked if asked > vcpus else 0


def cpus(given: pb.LinuxContainerResources, ratio: float = 1.0) -> int:
    """How many processors `ratio` times the quota is, at most those of the host; 0 without one."""
    if given.cpu_quota <= 0:
        return 0
    return min(math.ceil(given.cpu_quota * ratio / (given.cpu_period or DEFAULT_PERIOD_US)), processors())


def processors() -> int:
    """Return the number of processors of this host."""
    return os.cpu_count() or 1


def _containers(sandbox: pb.PodSandboxConfig, facts: Facts) -> int:
    """Return the bytes that containers may take: their limits or requests."""
    resources = sandbox.linux.resources
    return max(
        resources.memory_limit_in_bytes, facts.kept_bytes, *(_bytes(resources.unified.get(name, "")) for name in KEPT)
    )


def _in_cgroup_mib(sandbox: pb.PodSandboxConfig, now: Size, *, facts: Facts) -> int:
    """The most memory with which the VM is in the pod's cgroup; 0 when that sets no bound, or has no room anyway."""
    limit_mib = -(-max(sandbox.linux.resources.memory_limit_in_bytes, 0) // MIB)
    if not facts.allowed_bytes or not limit_mib:
        return 0
    most = limits.most_mib(facts.allowed_bytes // MIB - limit_mib, is_emulated=facts.is_emulated)
    return most if most >= now.memory_mib else 0


def _bytes(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS else 0
