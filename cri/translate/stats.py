# SPDX-License-Identifier: Apache-2.0
"""Samples of pods -> the CRI's stats. Called by the RPCs about stats. Pure but for the clock; asks no guest."""

import time

from cri.live.container import LiveContainer
from cri.live.pod import LivePod
from cri.pb import runtime_pb2 as pb
from cri.statistics.sample import Disk, Sample
from cri.translate.entries import has_labels
from stage1.guest.messages import ContainerStats, CpuStats, InterfaceStats, MemoryStats
from stage1.guest.numbers import Pressure, Pressures

DEFAULT_INTERFACE = "eth0"
"""What CNI calls the pod's first interface."""
NOTHING = ContainerStats(cpu=CpuStats(), memory=MemoryStats())


def number(value: int) -> pb.UInt64Value:
    """The CRI's boxed number."""
    return pb.UInt64Value(value=value)


def container_stats(pod: LivePod, container: LiveContainer, *, sample: Sample | None) -> pb.ContainerStats:
    """All zero, but with a time, for a container that does not run (`sample` None or without it)."""
    config = container.config
    at = sample.unix_ns if sample else time.time_ns()
    one = sample.containers.get(container.id, NOTHING) if sample else NOTHING
    cores = sample.nano_cores.get(container.id) if sample else 0
    memory, pressures = one.memory or MemoryStats(), one.pressures or Pressures()
    disk = pod.meter.disks.get(container.id) or Disk(at)
    return pb.ContainerStats(
        attributes=pb.ContainerAttributes(
            id=container.id, metadata=config.metadata, labels=config.labels, annotations=config.annotations
        ),
        cpu=_cpu(one.cpu, cores, at=at, psi=_psi(pressures.cpu)),
        memory=_memory(memory, at=at, psi=_psi(pressures.memory)),
        io=_io(pressures.io, at=at),
        writable_layer=pb.FilesystemUsage(
            timestamp=disk.unix_ns,
            fs_id=pb.FilesystemIdentifier(mountpoint=pod.tools.host.state_dir),
            used_bytes=number(disk.used_bytes),
            inodes_used=number(disk.inodes),
        ),
        swap=pb.SwapUsage(timestamp=at, swap_available_bytes=number(0), swap_usage_bytes=number(memory.swap)),
    )


def sandbox_stats(pod: LivePod, sample: Sample | None) -> pb.PodSandboxStats:
    """The guest as a whole, its kernel and agent included, and its containers; without a sample only who it is."""
    config = pod.config
    attributes = pb.PodSandboxAttributes(
        id=pod.id, metadata=config.metadata, labels=config.labels, annotations=config.annotations
    )
    if sample is None:
        now = time.time_ns()
        linux = pb.LinuxPodSandboxStats(cpu=_cpu(CpuStats(), 0, at=now), memory=_memory(MemoryStats(), at=now))
        return pb.PodSandboxStats(attributes=attributes, linux=linux)
    guest, at = sample.pod, sample.unix_ns
    pressures = guest.pressures or Pressures()
    running = [container for container in pod.containers.values() if container.id in sample.containers]
    linux = pb.LinuxPodSandboxStats(
        cpu=_cpu(guest.cpu, sample.nano_cores.get(""), at=at, psi=_psi(pressures.cpu)),
        memory=_memory(guest.memory or MemoryStats(), at=at, psi=_psi(pressures.memory)),
        io=_io(pressures.io, at=at),
        network=_network(guest.interfaces, at=at),
        process=pb.ProcessUsage(timestamp=at, process_count=number(guest.threads)),
        containers=[container_stats(pod, container, sample=sample) for container in running],
    )
    return pb.PodSandboxStats(attributes=attributes, linux=linux)


def container_stats_pass(pod: LivePod, container: LiveContainer, *, criteria: pb.ContainerStatsFilter) -> bool:
    """All parts of the filter at once; ids may be beginnings of them."""
    labels = container.config.labels if criteria.label_selector else {}
    return (
        container.id.startswith(criteria.id)
        and pod.id.startswith(criteria.pod_sandbox_id)
        and has_labels(labels, criteria.label_selector)
    )


def sandbox_stats_pass(pod: LivePod, *, criteria: pb.PodSandboxStatsFilter) -> bool:
    """All parts of the filter at once; the id may be a beginning of one."""
    labels = pod.config.labels if criteria.label_selector else {}
    return pod.id.startswith(criteria.id) and has_labels(labels, criteria.label_selector)


def _cpu(cpu: CpuStats | None, nano_cores: int | None, *, at: int, psi: pb.PsiStats | None = None) -> pb.CpuUsage:
    """The rate is left out until it is known; clients then take it from two samples of their own."""
    used = (cpu or CpuStats()).usage_us * 1000
    rate = None if nano_cores is None else number(nano_cores)
    return pb.CpuUsage(timestamp=at, usage_core_nano_seconds=number(used), usage_nano_cores=rate, psi=psi)


def _memory(memory: MemoryStats, *, at: int, psi: pb.PsiStats | None = None) -> pb.MemoryUsage:
    available = number(max(memory.limit - memory.working_set, 0)) if memory.limit else None
    return pb.MemoryUsage(
        timestamp=at,
        working_set_bytes=number(memory.working_set),
        available_bytes=available,
        usage_bytes=number(memory.usage),
        rss_bytes=number(memory.anonymous),
        page_faults=number(memory.faults),
        major_page_faults=number(memory.major_faults),
        psi=psi,
    )


def _io(pressure: Pressure | None, *, at: int) -> pb.IoUsage | None:
    return None if pressure is None else pb.IoUsage(timestamp=at, psi=_psi(pressure))


def _psi(one: Pressure | None) -> pb.PsiStats | None:
    """Percent and microseconds, as the kernel says them; None where it does not."""
    if one is None:
        return None
    some = pb.PsiData(Total=one.some_us, Avg10=one.some_10 / 100, Avg60=one.some_60 / 100, Avg300=one.some_300 / 100)
    full = pb.PsiData(Total=one.full_us, Avg10=one.full_10 / 100, Avg60=one.full_60 / 100, Avg300=one.full_300 / 100)
    return pb.PsiStats(Full=full, Some=some)


def _network(interfaces: tuple[InterfaceStats, ...], *, at: int) -> pb.NetworkUsage | None:
    if not interfaces:
        return None
    usages = {one.name: _interface(one) for one in interfaces}
    default = usages.get(DEFAULT_INTERFACE, usages[interfaces[0].name])
    return pb.NetworkUsage(timestamp=at, default_interface=default, interfaces=list(usages.values()))


def _interface(one: InterfaceStats) -> pb.NetworkInterfaceUsage:
    return pb.NetworkInterfaceUsage(
        name=one.name,
        rx_bytes=number(one.rx_bytes),
        rx_errors=number(one.rx_errors),
        tx_bytes=number(one.tx_bytes),
        tx_errors=number(one.tx_errors),
    )
