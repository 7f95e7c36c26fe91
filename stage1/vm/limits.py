# SPDX-License-Identifier: Apache-2.0
"""How much of the host a VMM may take, from the size of its VM. Pure but for the number of processors.

Used by `placement`. A VMM's cgroup fences in a compromised one; the guest's limit is the VM's size. So
each number has room for the worst that was measured (docs/admin/threat-model.md, "Limits of the hypervisor"). The page
cache of what a guest reads and writes is in it too, and is reclaimed when it is full.
"""

import os

from stage1.linux.cgroup import PERIOD_US, Limits
from stage1.vm.spec import VmSpec

MIB = 1 << 20
PROGRAM_MIB = 128
"""Memory of the VMM itself with its libraries, for devices, threads and requests in progress, and of the server of its
volumes.
"""
CACHE_MIB = 256
"""Memory for translated code when the processor is emulated. QEMU's own choice, up to 1 GiB, is more than a guest."""
GUEST_MIB = 64
"""Of a guest's kernel and agent with nothing in it."""
PROGRAM_KVM_MIB, PROGRAM_TCG_MIB = 32, 64
"""Of a VMM in good order, without what `PROGRAM_MIB` fences off for one that fell."""
_STRUCTS = 64
_TABLES_KVM, _TABLES_TCG = 64, 8
"""One part in so many of the guest's memory is taken once more, for page tables, or for the emulated TLB."""
_IO_CPUS = 1
_THREADS = 96
"""Threads in addition to vCPUs: QEMU has up to 64 for files and disks, kvmtool one for each device and each
processor.
"""


def of(vm: VmSpec) -> Limits:
    """The limits of the VM's cgroups."""
    return Limits(
        memory_bytes=(vm.memory_mib + overhead_mib(vm)) * MIB,
        pids=vm.vcpus + _THREADS + (os.cpu_count() or 1),
        cpu_us=(vm.vcpus + _IO_CPUS) * PERIOD_US,
    )


def cost_mib(vm: VmSpec) -> int:
    """The overhead of the VM on the host, with a margin; a pod's cgroup must have room for it."""
    return estimate_mib(vm.memory_mib, is_emulated=_is_emulated(vm))


def estimate_mib(memory_mib: int, *, is_emulated: bool) -> int:
    """Like `cost_mib`, of a VM with that much memory: its kernel, agent and page structs, and the VMM.
    docs/admin/node.md has the measurements.
    """
    program = PROGRAM_TCG_MIB + CACHE_MIB if is_emulated else PROGRAM_KVM_MIB
    tables = memory_mib // (_TABLES_TCG if is_emulated else _TABLES_KVM)
    return GUEST_MIB + memory_mib // _STRUCTS + program + tables


def most_mib(available_mib: int, *, is_emulated: bool) -> int:
    """The largest VM that takes no more than `room_mib` without its containers; 0 when none does."""
    fixed = estimate_mib(0, is_emulated=is_emulated)
    tables = _TABLES_TCG if is_emulated else _TABLES_KVM
    largest = max(available_mib - fixed, -1) * _STRUCTS * tables // (_STRUCTS + tables)
    return max(largest, 0)


def overhead_mib(vm: VmSpec) -> int:
    """The most that the VMM uses in addition to the guest's memory."""
    is_emulated = _is_emulated(vm)
    tables = -(-vm.memory_mib // (_TABLES_TCG if is_emulated else _TABLES_KVM))
    return PROGRAM_MIB + tables + (CACHE_MIB if is_emulated else 0)


def _is_emulated(vm: VmSpec) -> bool:
    return vm.accel == "tcg"
