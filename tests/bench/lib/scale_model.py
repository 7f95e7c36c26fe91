# SPDX-License-Identifier: Apache-2.0
"""Carries the measured costs of a pod to many pods on big machines, and says which resource ends first. Pure.

Called by scale.py with the report of `scripts/bench density`. Everything is proportional to the number of pods: a VMM's
mount namespace has its own mounts only (stage1/vm/jail.py).
"""

import math
from typing import Any, NamedTuple

GIB, MIB, KIB = 1 << 30, 1 << 20, 1 << 10
KEPT_BACK = 0.1
"""Part of the memory that the host itself needs."""
PASS_LIMIT_S = 600.0
"""KSM that needs longer for one pass saves nothing while pods come and go."""
MAPPED_PAGES = 7_000
"""Of an idle guest, which KSM looks at."""
JAIL_MOUNTS = 22
"""In a VMM's mount namespace: its root, the system's places and its own."""


class Machine(NamedTuple):
    """A host and its limits: the kernel's and Debian's defaults where they do not follow from its size."""

    name: str
    memory_gib: int
    cpus: int
    cids: int = (1 << 32) - 3
    pids: int = 4_194_304
    open_files: int = 524_288
    mounts: int = 100_000
    bridge_ports: int = 1_023
    addresses: int = 65_534
    scan_pages_per_s: int = 400_000

    @property
    def namespaces(self) -> int:
        """fork.c: threads-max is an eighth of the memory in kernel stacks; namespaces half of that."""
        return self.memory_gib * GIB // (8 * 16 * KIB) // 2


MACHINES = (Machine("256 GiB, 64 CPUs", 256, 64),)
COUNTS = (1_000, 10_000)


class Cost(NamedTuple):
    """Of one pod. Bytes, and counts."""

    unique: float
    page_tables: float
    daemon: float
    run_dir: float
    network: float
    mounts: float
    mount_bytes: float
    descriptors: float
    threads: float


class Need(NamedTuple):
    """Of one resource: what so many pods need, what there is, and with how many pods it ends."""

    resource: str
    needed: float
    there: float
    ends_at: int
    unit: str = ""


def row(report: dict[str, Any]) -> dict[str, Any]:
    """The row with the most idle pods without huge pages, of kvmtool with DAX if there is one, else of QEMU.

    Raises ValueError when there is none.
    """
    rows = [row for row in report["rows"] if not row["serving"] and not row["huge_pages"] and "ksm" in row]
    rows = [row for row in rows if row["dax"]] or [row for row in rows if row["hypervisor"] == "qemu"]
    if not rows:
        raise ValueError("the report has no row of idle pods with and without KSM: run `scripts/bench density`")
    return max(rows, key=lambda one: int(one["pods"]))


def cost(report: dict[str, Any], *, with_ksm: bool = True) -> Cost:
    """That of a pod in `row`."""
    one = row(report)
    result = one["ksm"] if with_ksm else one["before"]
    return Cost(
        unique=result["unique"] * MIB,
        page_tables=result["page_tables"] * MIB,
        daemon=one["daemon_mib_per_pod"] * MIB,
        run_dir=one["run_dir_kib_per_pod"] * KIB,
        network=report["kernel"]["network_kib"] * KIB,
        mounts=one["mounts_per_pod"],
        mount_bytes=report["kernel"]["mount_bytes"] or 384,
        descriptors=one["daemon_descriptors_per_pod"],
        threads=one["before"]["threads"],
    )


def needs(one: Cost, machine: Machine, count: int) -> list[Need]:
    """All resources, the one that ends first at the front."""
    available = machine.memory_gib * GIB * (1 - KEPT_BACK)
    result = [
        _linear("memory of the guests and VMMs", one.unique, available, count, "GiB"),
        _linear("page tables", one.page_tables, available, count, "GiB"),
        _linear("the daemon's memory", one.daemon, available, count, "GiB"),
        _linear("`run_dir`, which is memory", one.run_dir, available, count, "GiB"),
        _linear("network namespaces and devices, their memory", one.network, available, count, "GiB"),
        _linear("the kernel's memory for mounts", _mounts(one), available, count, "GiB"),
        _linear("**all memory together**", _together(one), available, count, "GiB"),
        _linear("mounts in a namespace (`fs.mount-max`)", one.mounts, machine.mounts, count),
        _linear("vsock context ids", 1, machine.cids, count),
        _linear("ports of one bridge, so taps of the default network", 1, machine.bridge_ports, count),
        _linear("addresses of the default network", 1, machine.addresses, count),
        _linear("network namespaces (`user.max_net_namespaces`)", 1, machine.namespaces, count),
        _linear("mount namespaces (`user.max_mnt_namespaces`)", 1, machine.namespaces, count),
        _linear("the daemon's descriptors (hard limit)", one.descriptors, machine.open_files, count),
        _linear("processes and threads (`kernel.pid_max`)", one.threads, machine.pids, count),
        _linear("one pass of KSM", MAPPED_PAGES / machine.scan_pages_per_s, PASS_LIMIT_S, count, "s"),
        Need("`/dev/shm`: guests' memory is private, so nothing", 0, available / 2 / GIB, 0, "GiB"),
    ]
    return sorted(result, key=lambda need: need.ends_at or math.inf)


def _linear(resource: str, each: float, there: float, count: int, unit: str = "") -> Need:
    scale = GIB if unit == "GiB" else 1
    ends_at = int(there / each) if each > 0 else 0
    return Need(resource, each * count / scale, there / scale, ends_at, unit)


def _mounts(one: Cost) -> float:
    """Bytes per pod."""
    return (one.mounts + JAIL_MOUNTS) * one.mount_bytes


def _together(one: Cost) -> float:
    """Bytes per pod."""
    return one.unique + one.page_tables + one.daemon + one.run_dir + one.network + _mounts(one)


def table(one: Cost, machine: Machine) -> str:
    """Markdown: each resource with what COUNTS of pods need, what there is, and where it ends."""
    lines = [
        f"| {machine.name} | " + " | ".join(f"{count:,} pods" for count in COUNTS) + " | there is | ends at pods |",
        "|---|" + "---|" * (len(COUNTS) + 2),
    ]
    by_name = [{need.resource: need for need in needs(one, machine, count)} for count in COUNTS]
    for need in needs(one, machine, COUNTS[0]):
        cells = [_number(result[need.resource].needed, need.unit) for result in by_name]
        ends = f"{need.ends_at:,}" if need.ends_at else "never"
        lines.append(f"| {need.resource} | {' | '.join(cells)} | {_number(need.there, need.unit)} | {ends} |")
    return "\n".join(lines)


def _number(value: float, unit: str) -> str:
    digits = 0 if value >= 100 or value == int(value) else 2 if value < 10 else 1
    return f"{value:,.{digits}f} {unit}".strip()


def verdict(one: Cost, machine: Machine) -> str:
    """One sentence: what ends first."""
    first, second = needs(one, machine, COUNTS[0])[:2]
    return (
        f"On {machine.name}, {first.resource.strip('*')} ends first, at {first.ends_at:,} pods; "
        f"then {second.resource.strip('*')}, at {second.ends_at:,}."
    )
