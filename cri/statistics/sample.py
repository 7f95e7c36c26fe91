# SPDX-License-Identifier: Apache-2.0
"""What a pod has used, as samples of its guest's counters. Kept by `meter`; translated by `cri.translate`.

Pure values and sums. A sample's time is the host's, when the answer came; rates are by the guest's own clock, which
does not care how long the answer took.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from stage1.guest.checked import MAX_CPU_US
from stage1.guest.messages import ContainerStats, CpuStats, MemoryStats, PodStats

LEAST_APART_NS = 500_000_000
"""Samples nearer to each other give no new rate: the kernel counts in ticks."""

MOST_NANO_CORES = 10**15
"""A million cores: higher values of a guest are not passed on."""


class Disk(NamedTuple):
    """The size of a container's writable layer; measured rarely, since its files have to be counted."""

    unix_ns: int = 0
    used_bytes: int = 0
    inodes: int = 0


class Sample(NamedTuple):
    """One moment of a pod. `nano_cores` is the CPU rate of each container, of the guest under the empty name."""

    unix_ns: int
    pod: PodStats
    containers: Mapping[str, ContainerStats]
    nano_cores: Mapping[str, int]

    def at_rest(self, unix_ns: int) -> "Sample":
        """The sample of a pod that has been suspended since: its counters are frozen, and it has no memory."""
        containers = {name: one._replace(memory=MemoryStats()) for name, one in self.containers.items()}
        return Sample(unix_ns, self.pod._replace(memory=MemoryStats()), containers, dict.fromkeys(("", *containers), 0))


class Rates:
    """CPU rates between samples that are far enough apart; they stay as they were until then."""

    def __init__(self) -> None:
        self._base: dict[str, tuple[int, int]] = {}
        self._known: dict[str, int] = {}

    def update(self, pod: PodStats, containers: Iterable[ContainerStats]) -> dict[str, int]:
        """Take in one moment's counters and return the rates known now; forgets who is gone."""
        seen = {one.id: (one.at_ns, _used_us(one.cpu)) for one in containers}
        seen[""] = (pod.at_ns, _used_us(pod.cpu))
        self._base = {name: value for name, value in self._base.items() if name in seen}
        self._known = {name: rate for name, rate in self._known.items() if name in seen}
        for name, (at_ns, used_us) in seen.items():
            base_ns, base_us = self._base.setdefault(name, (at_ns, used_us))
            if at_ns < base_ns or used_us < base_us:
                self._base[name] = (at_ns, used_us)  # another guest, or a restarted container
            elif at_ns - base_ns >= LEAST_APART_NS:
                rate = (used_us - base_us) * 1_000_000_000_000 // (at_ns - base_ns)
                self._known[name] = min(rate, MOST_NANO_CORES)
                self._base[name] = (at_ns, used_us)
        return dict(self._known)


class MissedTime:
    """The CPU time of a whole pod is never less than that of its containers.

    The guest's kernel counts the whole by ticks, and a container by the scheduler's clock: of ticks that pass while the
    host has taken the processor away, it counts one (account_process_tick in kernel/sched/cputime.c).
    """

    def __init__(self) -> None:
        self._missed_us = 0

    def added(self, pod: PodStats, containers: Iterable[ContainerStats]) -> PodStats:
        """`pod` with the most that was ever seen to be missing, so that its time never goes back either."""
        if pod.cpu is None:
            return pod
        self._missed_us = max(self._missed_us, sum(_used_us(one.cpu) for one in containers) - pod.cpu.usage_us)
        usage_us = min(pod.cpu.usage_us + self._missed_us, MAX_CPU_US)
        return pod._replace(cpu=pod.cpu._replace(usage_us=usage_us))


def _used_us(cpu: CpuStats | None) -> int:
    return cpu.usage_us if cpu else 0
