# SPDX-License-Identifier: Apache-2.0
"""Which pods a prewarmed VM fits, and when another one is booted. Pure: for the pool."""

import math
from operator import itemgetter
from typing import NamedTuple

from stage1.pod.model import Pod

AFTER_BOOT = frozenset(
    """id name namespace uid attempt hostname sysctls dns_servers dns_searches dns_options
    ports ingress_bits egress_bits shm_bytes cgroup_parent limit_bytes overhead_bytes is_bounded
    hosts kubelet_dir memory_volumes copies_files""".split()
)
"""Fields that are set when the VM runs already: by the network, the pod's files and the agent's Configure. All others
must be equal to those of the prewarmed VM.
"""

_before_boot = itemgetter(*(at for at, name in enumerate(Pod._fields) if name not in AFTER_BOOT))

QUIET_S = 0.5
"""How long no VM is prewarmed after a pod's start: its containers follow, and must not compete with a boot."""
FIRST_PAUSE_S, LAST_PAUSE_S = 1.0, 60.0
"""Delay after a VM that did not boot; doubled after each further one."""
KEPT_FREE = 10
"""One part in so many of the host's memory stays available whatever waits."""


def fits(requested: Pod, prewarmed: Pod) -> bool:
    """Whether a prewarmed VM can be claimed for the pod `requested`."""
    return bool(_before_boot(requested) == _before_boot(prewarmed))


class Bounds(NamedTuple):
    """How many slots there are, and how much memory their VMs may have together; 0 MiB is no bound."""

    size: int = 0
    memory_mib: int = 0


class Observed(NamedTuple):
    """The moment: slots with a VM, pods that are starting, seconds since the last start, boots that failed in sequence
    and seconds since the last of them; the memory of one VM, of the host, and what of it is available.
    """

    waiting: int
    starting: int
    quiet_s: float
    failures: int
    failed_s: float
    each_mib: int
    host_mib: int
    available_mib: int


def most(bounds: Bounds, each_mib: int) -> int:
    """How many VMs of this size may be in slots."""
    return min(bounds.size, bounds.memory_mib // each_mib) if bounds.memory_mib else bounds.size


def pause_s(bounds: Bounds, seen: Observed) -> float:
    """Seconds until another VM may be booted: 0 for now, infinity for not before something happens.

    There is no event when memory becomes free, so it is checked again after a while.
    """
    if seen.waiting >= most(bounds, seen.each_mib) or seen.starting:
        return math.inf
    if seen.available_mib - seen.each_mib < seen.host_mib // KEPT_FREE:
        return LAST_PAUSE_S
    back_off_s = min(FIRST_PAUSE_S * 2 ** min(seen.failures - 1, 16), LAST_PAUSE_S) if seen.failures else 0
    return max(0.0, QUIET_S - seen.quiet_s, back_off_s - seen.failed_s)
