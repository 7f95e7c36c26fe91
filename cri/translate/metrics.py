# SPDX-License-Identifier: Apache-2.0
"""The metrics that replace cAdvisor's: their descriptors, and their values from samples. Called by the RPCs. Pure.

One table defines each metric, so that none can be announced and not given. Values are whole numbers: the CRI has no
others.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

from cri.live.container import LiveContainer
from cri.live.pod import LivePod
from cri.pb import runtime_pb2 as pb
from cri.statistics.sample import Disk, Sample
from stage1.guest.messages import ContainerStats, CpuStats, InterfaceStats, MemoryStats, PodStats
from stage1.guest.numbers import Pressures

BASE = ("pod", "namespace", "container", "id", "image")
COUNTER, GAUGE = pb.COUNTER, pb.GAUGE
DEVICE = "scratch"
"""The writable layers' file system has no device of the host's."""
DEFAULT_SHARES, DEFAULT_PERIOD_US = 1024, 100_000


class Facts(NamedTuple):
    """The data from which a container's metrics are made."""

    live: LiveContainer
    one: ContainerStats
    cpu: CpuStats
    memory: MemoryStats
    guest: PodStats
    disk: Disk
    unix_ns: int


class Entry(NamedTuple):
    """One metric of containers. `values` gives the extra labels' values and the number, once or more."""

    name: str
    help: str
    kind: "pb.MetricType.ValueType"
    values: Callable[[Facts], Iterator[tuple[tuple[str, ...], int]]]
    labels: tuple[str, ...] = ()


Row = tuple[str, str, "pb.MetricType.ValueType", Callable[[Facts], int]]
"""Name without the prefix, help, kind, value."""


def _plain(row: Row) -> Entry:
    name, text, kind, value = row
    return Entry(f"container_{name}", text, kind, lambda facts: iter([((), value(facts))]))


def _of_disk(row: Row) -> Entry:
    name, text, kind, value = row
    return Entry(f"container_{name}", text, kind, lambda facts: iter([((DEVICE,), value(facts))]), labels=("device",))


def _failures(facts: Facts) -> Iterator[tuple[tuple[str, ...], int]]:
    yield ("pgfault", "container"), facts.memory.faults
    yield ("pgmajfault", "container"), facts.memory.major_faults


def _block_io(facts: Facts) -> Iterator[tuple[tuple[str, ...], int]]:
    yield (DEVICE, "", "", "Read"), facts.one.read_bytes
    yield (DEVICE, "", "", "Write"), facts.one.written_bytes


PLAIN: tuple[Row, ...] = (
    ("cpu_usage_seconds_total", "CPU time used", COUNTER, lambda f: f.cpu.usage_us // 1_000_000),
    ("cpu_user_seconds_total", "CPU time in user mode", COUNTER, lambda f: f.cpu.user_us // 1_000_000),
    ("cpu_system_seconds_total", "CPU time in the guest's kernel", COUNTER, lambda f: f.cpu.system_us // 1_000_000),
    ("cpu_cfs_periods_total", "Periods of the CPU quota", COUNTER, lambda f: f.cpu.periods),
    ("cpu_cfs_throttled_periods_total", "Periods cut by the quota", COUNTER, lambda f: f.cpu.throttled_periods),
    ("cpu_cfs_throttled_seconds_total", "Time lost to quota", COUNTER, lambda f: f.cpu.throttled_us // 1_000_000),
    ("memory_cache", "Page cache", GAUGE, lambda f: f.memory.cache),
    ("memory_failcnt", "Times the memory limit was met", COUNTER, lambda f: f.memory.limit_hits),
    ("memory_kernel_usage", "Memory of the guest's kernel for it", GAUGE, lambda f: f.memory.kernel),
    ("memory_mapped_file", "Mapped files", GAUGE, lambda f: f.memory.mapped),
    ("memory_max_usage_bytes", "The most memory ever used", GAUGE, lambda f: f.memory.peak),
    ("memory_rss", "Anonymous memory", GAUGE, lambda f: f.memory.anonymous),
    ("memory_swap", "Swap", GAUGE, lambda f: f.memory.swap),
    ("memory_usage_bytes", "Memory with all caches", GAUGE, lambda f: f.memory.usage),
    ("memory_working_set_bytes", "Memory that can't easily be freed", GAUGE, lambda f: f.memory.working_set),
    ("processes", "Processes", GAUGE, lambda f: f.one.processes),
    ("threads", "Threads", GAUGE, lambda f: f.one.threads),
    ("threads_max", "Most threads allowed, 0 for no limit", GAUGE, lambda f: f.one.threads_max),
    ("sockets", "Open sockets", GAUGE, lambda f: f.one.sockets),
    ("file_descriptors", "Open files", GAUGE, lambda f: f.one.files),
    ("last_seen", "When this was seen, in seconds since 1970", GAUGE, lambda f: f.unix_ns // 1_000_000_000),
    ("start_time_seconds", "When it started", GAUGE, lambda f: f.live.status.started_ns // 1_000_000_000),
    ("oom_events_total", "Kills by the out-of-memory killer", COUNTER, lambda f: f.memory.oom_kills),
    ("spec_cpu_period", "Period of the CPU quota, in microseconds", GAUGE, lambda f: _limits(f)[0]),
    ("spec_cpu_shares", "Weight of the CPU", GAUGE, lambda f: _limits(f)[1]),
    ("spec_memory_limit_bytes", "Memory limit, 0 for none", GAUGE, lambda f: _limits(f)[2]),
    ("spec_memory_swap_limit_bytes", "Limit of memory and swap, 0 for none", GAUGE, lambda f: _limits(f)[3]),
)
OF_PRESSURE: tuple[Row, ...] = (
    ("pressure_cpu_waiting_seconds_total", "A task waited for a CPU", COUNTER, lambda f: _waited(f).cpu),
    ("pressure_cpu_stalled_seconds_total", "All tasks waited for a CPU", COUNTER, lambda f: _stalled(f).cpu),
    ("pressure_memory_waiting_seconds_total", "A task waited for memory", COUNTER, lambda f: _waited(f).memory),
    ("pressure_memory_stalled_seconds_total", "All tasks waited for memory", COUNTER, lambda f: _stalled(f).memory),
    ("pressure_io_waiting_seconds_total", "A task waited for a disk", COUNTER, lambda f: _waited(f).io),
    ("pressure_io_stalled_seconds_total", "All tasks waited for a disk", COUNTER, lambda f: _stalled(f).io),
)
OF_DISKS: tuple[Row, ...] = (
    ("fs_inodes_free", "Free inodes of the writable layers", GAUGE, lambda f: f.guest.disk_inodes_free),
    ("fs_inodes_total", "Inodes of the writable layers", GAUGE, lambda f: f.guest.disk_inodes),
    ("fs_limit_bytes", "Size of the pod's scratch disk", GAUGE, lambda f: f.guest.disk_bytes),
    ("fs_usage_bytes", "Size of the container's writable layer", GAUGE, lambda f: f.disk.used_bytes),
    ("fs_reads_bytes_total", "Bytes read from disks", COUNTER, lambda f: f.one.read_bytes),
    ("fs_reads_total", "Reads from disks", COUNTER, lambda f: f.one.reads),
    ("fs_writes_bytes_total", "Bytes written to disks", COUNTER, lambda f: f.one.written_bytes),
    ("fs_writes_total", "Writes to disks", COUNTER, lambda f: f.one.writes),
)
OF_CONTAINERS = (
    *map(_plain, PLAIN),
    *map(_plain, OF_PRESSURE),
    *map(_of_disk, OF_DISKS),
    Entry("container_memory_failures_total", "Page faults", COUNTER, _failures, labels=("failure_type", "scope")),
    Entry(
        "container_blkio_device_usage_total",
        "Bytes moved between the container and disks",
        COUNTER,
        _block_io,
        labels=("device", "major", "minor", "operation"),
    ),
)

OF_INTERFACES: tuple[tuple[str, str, Callable[[InterfaceStats], int]], ...] = (
    ("receive_bytes_total", "Bytes received", lambda one: one.rx_bytes),
    ("receive_errors_total", "Errors while receiving", lambda one: one.rx_errors),
    ("receive_packets_dropped_total", "Packets dropped while receiving", lambda one: one.rx_dropped),
    ("receive_packets_total", "Packets received", lambda one: one.rx_packets),
    ("transmit_bytes_total", "Bytes sent", lambda one: one.tx_bytes),
    ("transmit_errors_total", "Errors while sending", lambda one: one.tx_errors),
    ("transmit_packets_dropped_total", "Packets dropped while sending", lambda one: one.tx_dropped),
    ("transmit_packets_total", "Packets sent", lambda one: one.tx_packets),
)


def descriptors() -> list[pb.MetricDescriptor]:
    """All metrics that are given."""
    listed = [
        pb.MetricDescriptor(name=one.name, help=one.help, label_keys=(*BASE, *one.labels)) for one in OF_CONTAINERS
    ]
    for name, text, _ in OF_INTERFACES:
        keys = (*BASE, "interface")
        listed.append(pb.MetricDescriptor(name=f"container_network_{name}", help=text, label_keys=keys))
    return listed


def sandbox_metrics(pod: LivePod, sample: Sample) -> pb.PodSandboxMetrics:
    """Network at the pod, the rest at its running containers."""
    names = pod.record.pod
    running = [one for one in pod.containers.values() if one.is_running and one.id in sample.containers]
    return pb.PodSandboxMetrics(
        pod_sandbox_id=pod.id,
        metrics=_network((names.name, names.namespace, "POD", pod.id, ""), sample),
        container_metrics=[
            pb.ContainerMetrics(container_id=one.id, metrics=_container(pod, one, sample=sample)) for one in running
        ],
    )


def _network(labels: tuple[str, ...], sample: Sample) -> list[pb.Metric]:
    return [
        pb.Metric(
            name=f"container_network_{name}",
            timestamp=sample.unix_ns,
            metric_type=COUNTER,
            label_values=(*labels, interface.name),
            value=pb.UInt64Value(value=value(interface)),
        )
        for interface in sample.pod.interfaces
        for name, _, value in OF_INTERFACES
    ]


def _container(pod: LivePod, live: LiveContainer, *, sample: Sample) -> list[pb.Metric]:
    one, names = sample.containers[live.id], pod.record.pod
    disk = pod.meter.disks.get(live.id) or Disk()
    facts = Facts(
        live, one, one.cpu or CpuStats(), one.memory or MemoryStats(), sample.pod, disk, sample.unix_ns
    )  # fmt: skip
    labels = (names.name, names.namespace, live.record.container.name, live.id, live.record.image_ref)
    return [
        pb.Metric(
            name=entry.name,
            timestamp=sample.unix_ns,
            metric_type=entry.kind,
            label_values=(*labels, *extra),
            value=pb.UInt64Value(value=value),
        )
        for entry in OF_CONTAINERS
        for extra, value in entry.values(facts)
    ]


class Waits(NamedTuple):
    """Seconds in which tasks waited, by what they waited for."""

    cpu: int
    memory: int
    io: int


def _waited(facts: Facts) -> Waits:
    return Waits(*(one.some_us // 1_000_000 if one else 0 for one in facts.one.pressures or Pressures()))


def _stalled(facts: Facts) -> Waits:
    return Waits(*(one.full_us // 1_000_000 if one else 0 for one in facts.one.pressures or Pressures()))


def _limits(facts: Facts) -> tuple[int, int, int, int]:
    limits = facts.live.record.container.limits
    memory, swap = max(limits.memory, 0), max(limits.memory_swap, 0)
    return limits.cpu_period_us or DEFAULT_PERIOD_US, limits.cpu_shares or DEFAULT_SHARES, memory, swap
