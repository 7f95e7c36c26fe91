# SPDX-License-Identifier: Apache-2.0
"""Samples of pods -> the CRI's stats. Called by the RPCs about stats. Pure but for the clock; asks no guest.

A message is made at once, of a dictionary for each message in it: made one by one, each would be copied into the next,
which takes twice as long, and a node has hundreds of pods.
"""

import time
from typing import Any

from cri.live.container import LiveContainer
from cri.live.pod import LivePod
from cri.pb import runtime_pb2 as pb
from cri.statistics.sample import Disk, Sample
from cri.translate.entries import has_labels
from stage1.guest.messages import ContainerStats, CpuStats, InterfaceStats, MemoryStats
from stage1.guest.numbers import Pressure, Pressures

DEFAULT_INTERFACE = "eth0"
"""CNI's name of the pod's first interface."""
NOTHING = ContainerStats(cpu=CpuStats(), memory=MemoryStats())

_Fields = dict[str, Any]
"""Of a message, by name."""


def container_stats(pod: LivePod, container: LiveContainer, *, sample: Sample | None) -> pb.ContainerStats:
    """All zero, but with a time, for a container that does not run (`sample` None or without it)."""
    return pb.ContainerStats(**_container(pod, container, sample=sample))


def sandbox_stats(pod: LivePod, sample: Sample | None) -> pb.PodSandboxStats:
    """The guest as a whole, its kernel and agent included, and its containers; without a sample only who it is."""
    attributes = _attributes(pod.id, pod.config)
    if sample is None:
        now = time.time_ns()
        linux: _Fields = {"cpu": _cpu(CpuStats(), 0, at=now), "memory": _memory(MemoryStats(), at=now)}
    else:
        linux = _linux(pod, sample)
    made: _Fields = {"attributes": attributes, "linux": linux}
    return pb.PodSandboxStats(**made)


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


def _attributes(name: str, config: pb.ContainerConfig | pb.PodSandboxConfig) -> _Fields:
    return {
        "id": name,
        "metadata": config.metadata,
        "labels": config.labels,
        "annotations": config.annotations,
    }


def _container(pod: LivePod, container: LiveContainer, *, sample: Sample | None) -> _Fields:
    at = sample.unix_ns if sample else time.time_ns()
    one = sample.containers.get(container.id, NOTHING) if sample else NOTHING
    cores = sample.nano_cores.get(container.id) if sample else 0
    memory, pressures = one.memory or MemoryStats(), one.pressures or Pressures()
    disk = pod.meter.disks.get(container.id) or Disk(at)
    return {
        "attributes": _attributes(container.id, container.config),
        "cpu": _cpu(one.cpu, cores, at=at, psi=_psi(pressures.cpu)),
        "memory": _memory(memory, at=at, psi=_psi(pressures.memory)),
        "io": _io(pressures.io, at=at),
        "writable_layer": {
            "timestamp": disk.unix_ns,
            "fs_id": {"mountpoint": pod.tools.host.state_dir},
            "used_bytes": {"value": disk.used_bytes},
            "inodes_used": {"value": disk.inodes},
        },
        "swap": {
            "timestamp": at,
            "swap_available_bytes": {"value": 0},
            "swap_usage_bytes": {"value": memory.swap},
        },
    }


def _linux(pod: LivePod, sample: Sample) -> _Fields:
    guest, at = sample.pod, sample.unix_ns
    pressures = guest.pressures or Pressures()
    running = [one for one in pod.containers.values() if one.is_running and one.id in sample.containers]
    return {
        "cpu": _cpu(guest.cpu, sample.nano_cores.get(""), at=at, psi=_psi(pressures.cpu)),
        "memory": _memory(guest.memory or MemoryStats(), at=at, psi=_psi(pressures.memory)),
        "io": _io(pressures.io, at=at),
        "network": _network(guest.interfaces, at=at),
        "process": {"timestamp": at, "process_count": {"value": guest.threads}},
        "containers": [_container(pod, one, sample=sample) for one in running],
    }


def _cpu(cpu: CpuStats | None, nano_cores: int | None, *, at: int, psi: _Fields | None = None) -> _Fields:
    """The rate is left out until it is known; clients then take it from two samples of their own."""
    used = (cpu or CpuStats()).usage_us * 1000
    rate = None if nano_cores is None else {"value": nano_cores}
    return {"timestamp": at, "usage_core_nano_seconds": {"value": used}, "usage_nano_cores": rate, "psi": psi}


def _memory(memory: MemoryStats, *, at: int, psi: _Fields | None = None) -> _Fields:
    used = memory.working_set
    return {
        "timestamp": at,
        "working_set_bytes": {"value": used},
        "available_bytes": {"value": max(memory.limit - used, 0)} if memory.limit else None,
        "usage_bytes": {"value": memory.usage},
        "rss_bytes": {"value": memory.anonymous},
        "page_faults": {"value": memory.faults},
        "major_page_faults": {"value": memory.major_faults},
        "psi": psi,
    }


def _io(pressure: Pressure | None, *, at: int) -> _Fields | None:
    return None if pressure is None else {"timestamp": at, "psi": _psi(pressure)}


def _psi(one: Pressure | None) -> _Fields | None:
    """Percent and microseconds, as the kernel reports them; None where it does not."""
    if one is None:
        return None
    return {
        "Some": {
            "Total": one.some_us,
            "Avg10": one.some_10 / 100,
            "Avg60": one.some_60 / 100,
            "Avg300": one.some_300 / 100,
        },
        "Full": {
            "Total": one.full_us,
            "Avg10": one.full_10 / 100,
            "Avg60": one.full_60 / 100,
            "Avg300": one.full_300 / 100,
        },
    }


def _network(interfaces: tuple[InterfaceStats, ...], *, at: int) -> _Fields | None:
    if not interfaces:
        return None
    usages = {one.name: _interface(one) for one in interfaces}
    default = usages.get(DEFAULT_INTERFACE, usages[interfaces[0].name])
    return {"timestamp": at, "default_interface": default, "interfaces": list(usages.values())}


def _interface(one: InterfaceStats) -> _Fields:
    return {
        "name": one.name,
        "rx_bytes": {"value": one.rx_bytes},
        "rx_errors": {"value": one.rx_errors},
        "tx_bytes": {"value": one.tx_bytes},
        "tx_errors": {"value": one.tx_errors},
    }
