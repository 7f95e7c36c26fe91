# SPDX-License-Identifier: Apache-2.0
"""LinuxContainerResources: what a kernel takes of them, and their form in the model. Called by `container` and
`resources`. Pure but for the numbers of the host's processors.
"""

import re

from cri.pb import runtime_pb2 as pb
from cri.translate.bounds import short
from stage1.errors import BadRequest, Unsupported
from stage1.linux import affinity
from stage1.pod.model import Limits, Pod

RANGES = {
    "cpu_period": (1000, 1_000_000),
    "cpu_shares": (2, 262_144),
    "oom_score_adj": (-1000, 1000),
    "memory_limit_in_bytes": (1 << 20, 1 << 60),
    "memory_swap_limit_in_bytes": (1 << 20, 1 << 60),
    "cpu_quota": (1000, 1 << 40),
}
"""The kernel's bounds; -1, for no limit, is checked separately."""
UNLIMITED = {"memory_limit_in_bytes", "memory_swap_limit_in_bytes", "cpu_quota"}
UNIFIED_KEY = re.compile(r"[a-z]+\.[a-z0-9_.]+")


def of_container(given: pb.LinuxContainerResources, pod: Pod) -> Limits:
    """Zero and empty mean "unset"; cpusets are of the host, and so nothing for a guest (`cri.live.cpus`).

    Raises Unsupported for huge pages.
    """
    if any(page.limit for page in given.hugepage_limits):
        raise Unsupported("huge pages are not offered in the guest; leave hugepage_limits empty")
    return Limits(
        memory=max(given.memory_limit_in_bytes, 0),
        memory_swap=max(given.memory_swap_limit_in_bytes, 0),
        cpu_shares=given.cpu_shares,
        cpu_quota_us=given.cpu_quota,
        cpu_period_us=given.cpu_period,
        cpuset_cpus=given.cpuset_cpus if pod.host else "",
        cpuset_mems=given.cpuset_mems if pod.host else "",
        unified=tuple(sorted(given.unified.items())),
    )


def check(given: pb.LinuxContainerResources) -> None:
    """Raise BadRequest, which names the field, for values that no kernel accepts."""
    for name, (low, high) in RANGES.items():
        value = getattr(given, name)
        if value and not low <= value <= high and not (value == -1 and name in UNLIMITED):
            raise BadRequest(f"{name} must be between {low} and {high}, but it is {value}")
    memory, swap = given.memory_limit_in_bytes, given.memory_swap_limit_in_bytes
    if 0 < swap < memory:
        raise BadRequest(f"memory_swap_limit_in_bytes counts memory and swap together; {swap} is less than {memory}")
    for name in ("cpuset_cpus", "cpuset_mems"):
        if text := getattr(given, name):
            _check_list(name, text)
    for key in given.unified:
        if not UNIFIED_KEY.fullmatch(key):
            raise BadRequest(f"{short(key)} in unified can't be a file of a cgroup, such as memory.high")


def _check_list(name: str, text: str) -> None:
    """A list of the host's processors, or of its memory nodes, which are not used here."""
    if not affinity.LIST.fullmatch(text):
        raise BadRequest(f"{name} must be a list such as 0-2,5, but it is {short(text)}")
    most = max(affinity.present()) if name == "cpuset_cpus" else 1 << 20
    for part in text.split(","):
        first, _, last = part.partition("-")
        if int(first) > int(last or first):
            raise BadRequest(f"{name} has the range {part}, whose end is before its beginning")
        if int(last or first) > most:
            raise BadRequest(f"{name} has {part}, but the last processor of this host is {most}")
