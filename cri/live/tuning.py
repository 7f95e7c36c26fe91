# SPDX-License-Identifier: Apache-2.0
"""Settings of the guest's kernel for a whole pod: the sum of its limits, and how many vCPUs are online.

Called by `pod` at the boot, and by `cri.pods.resize` and `cri.containers.limits` when limits change. The values are
decided elsewhere.
"""

from collections.abc import Awaitable, Callable

from cri.pb import runtime_pb2 as pb
from cri.store.pods import PodRecord
from stage1.guest.messages import Op, Reply, Tune
from stage1.pod.model import DEFAULT_PERIOD_US, Pod


async def begin(call: Callable[[Op], Awaitable[Reply]], pod: Pod) -> None:
    """Tell a guest that has just booted what the host's cgroup of the pod enforces: else the host's kernel would kill
    the whole VM, whose size is no limit. A sum that may be of only some containers is no limit. Raises as `call`.
    """
    if pod.is_bounded:
        await call(Tune("memory.max", str(pod.limit_bytes)))


def tunes(record: PodRecord) -> tuple[Tune, ...]:
    """All of it, in an order that is the same for every record of the pod. An absent value is no limit."""
    limits = pb.PodSandboxConfig.FromString(record.config).linux.resources
    memory, quota = limits.memory_limit_in_bytes, limits.cpu_quota
    period = limits.cpu_period or DEFAULT_PERIOD_US
    return (
        Tune("memory.max", str(memory) if memory > 0 else "max"),
        Tune("cpu.max", f"{quota} {period}" if quota > 0 else f"max {period}"),
        *((online(record.pod.online_vcpus),) if record.pod.online_vcpus else ()),
    )


def online(vcpus: int) -> Tune:
    """Bring so many vCPUs online."""
    return Tune("cpus", str(vcpus))
