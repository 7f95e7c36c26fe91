# SPDX-License-Identifier: Apache-2.0
"""The size of a pod's VM, whether it has a disk, and whether it boots: from its apps' limits, and annotations that
override them. Pure. Called by loader. Memory that no app touches costs the host nothing, so apps without a limit
get a generous one.
"""

from collections.abc import Mapping, Sequence

from stage1.errors import BadRequest
from stage1.rkt.annotations import MEMORY, ROOT, SCRATCH, TEMPLATE, VCPUS
from stage1.rkt.isolators import Isolators
from stage1.rkt.spelling import is_number

MIB = 1 << 20
GUEST_MIB = 64
"""Memory for the guest's own kernel, agent and caches, in addition to the apps'."""
SYSTEMD_MIB = 32
"""More, where systemd is in the guest."""
APP_MIB = 448
"""Memory for an app without a limit: a pod with one such app has 512 MiB, as with rkt's own VMs."""
LEAST_APP_MIB = 32
"""Memory for such an app if there are so many that all of them together would exceed `SHARE` of the host's memory:
QEMU can't have more than the host has.
"""
SHARE = 0.75
SANDBOX_MIB = GUEST_MIB + APP_MIB
"""The minimum if apps are added later, since a VM does not grow."""
SCRATCH_MIB, LEAST_SCRATCH_MIB = 10240, 16
"""Of the disk for a pod's empty volumes and for roots, all together. It takes what is written, no more."""


def memory_mib(apps: Sequence[Isolators], annotations: Mapping[str, str], *, mutable: bool, host_mib: float) -> int:
    """Return the VM's memory, on a host with `host_mib`. Raises BadRequest."""
    annotated = _number(annotations, MEMORY)
    needed = GUEST_MIB + sum(-(-app.memory // MIB) for app in apps if app.memory)
    unlimited = sum(not app.memory for app in apps)
    needed += max(min(APP_MIB * unlimited, int(host_mib * SHARE) - needed), LEAST_APP_MIB * unlimited)
    return annotated or (max(needed, SANDBOX_MIB) if mutable else needed)


def with_systemd_mib(memory_mib: int, annotations: Mapping[str, str]) -> int:
    """The memory of a VM with systemd in it, unless an annotation sets it."""
    return memory_mib if _number(annotations, MEMORY) else memory_mib + SYSTEMD_MIB


def vcpus(apps: Sequence[Isolators], annotations: Mapping[str, str], *, cpus: int) -> int:
    """Return the VM's vCPUs: the sum of the limits, rounded up, at most the host's; without a limit all of the host's.

    Raises BadRequest.
    """
    annotated = _number(annotations, VCPUS)
    limits = [app.cpu_milli for app in apps]
    needed = -(-sum(limits) // 1000) if limits and all(limits) else cpus
    return annotated or max(1, min(needed, cpus))


def scratch_mib(annotations: Mapping[str, str]) -> int:
    """Return the size of the scratch disk. Raises BadRequest."""
    given = _number(annotations, SCRATCH) or SCRATCH_MIB
    if given < LEAST_SCRATCH_MIB:
        raise BadRequest(f"the annotation {SCRATCH} must be at least {LEAST_SCRATCH_MIB}, but is {given}")
    return given


def is_root_on_disk(annotations: Mapping[str, str], *, where: str) -> bool:
    """Whether what an app writes to its root goes to that disk and not to the host. Raises BadRequest."""
    given = annotations.get(ROOT)
    if given not in (None, "disk"):
        raise BadRequest(f"{where}: the annotation {ROOT} can be disk, or left out, but is {given!r}")
    return given is not None


def boots(annotations: Mapping[str, str], *, where: str) -> bool:
    """Whether its VM is no copy of a template in any case. Raises BadRequest."""
    given = annotations.get(TEMPLATE)
    if given not in (None, "none"):
        raise BadRequest(f"{where}: the annotation {TEMPLATE} can be none, or left out, but is {given!r}")
    return given is not None


def _number(annotations: Mapping[str, str], word: str) -> int:
    text = annotations.get(word, "0")
    if not (is_number(text) and len(text) < 9):
        raise BadRequest(f"the annotation {word} must be a positive number, but is {text!r}")
    return int(text)
