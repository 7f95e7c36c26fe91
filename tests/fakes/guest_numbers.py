# SPDX-License-Identifier: Apache-2.0
"""What the fake guest answers to Stats: the host's numbers of the one process that stands for a container."""

import os
import time

from stage1.guest import messages as m
from stage1.guest.numbers import Pressure, Pressures

TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGESIZE")
MEMORY_BYTES = 128 << 20


PRESSURES = Pressures(
    cpu=Pressure(some_10=150, some_us=3_000_000, full_us=2_000_000),
    memory=Pressure(some_60=25, some_us=40),
    io=Pressure(full_300=10_000, some_us=5_500_000, full_us=5_000_000),
)
"""What every container of a fake guest has waited for."""


def numbers_of(name: str, pid: int, op: m.Stats) -> m.ContainerStats:
    """CPU and memory of `pid`; what was not asked for is left out, as the real agent does."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as text:
            fields = text.read().rpartition(")")[2].split()
    except OSError:
        fields = ["0"] * 50  # it just ended
    used_us = (int(fields[11]) + int(fields[12])) * 1_000_000 // TICKS
    rss = max(int(fields[21]), 1) * PAGE  # the kernel sums per-processor counters lazily: 0 for a while, for small ones
    memory = m.MemoryStats(usage=rss, anonymous=rss, faults=int(fields[7]))
    return m.ContainerStats(
        name, time.monotonic_ns(), m.CpuStats(used_us, used_us), memory, threads=1, processes=1,
        files=4 if op.files else 0, disk_bytes=8192 if op.disk else 0, disk_inodes=2 if op.disk else 0,
        pressures=PRESSURES,
    )  # fmt: skip


def numbers_of_guest(containers: tuple[m.ContainerStats, ...]) -> m.PodStats:
    """Their sums, and a network interface."""
    used_us = sum(one.cpu.usage_us for one in containers if one.cpu)
    usage = sum(one.memory.usage for one in containers if one.memory)
    return m.PodStats(
        at_ns=time.monotonic_ns(),
        cpu=m.CpuStats(used_us, used_us),
        memory=m.MemoryStats(usage=usage, limit=MEMORY_BYTES, anonymous=usage),
        threads=len(containers),
        interfaces=(m.InterfaceStats("eth0", rx_bytes=1000, rx_packets=10, tx_bytes=2000, tx_packets=20),),
        disk_bytes=1 << 30,
        disk_free=1 << 29,
        disk_inodes=65536,
        disk_inodes_free=65000,
        pressures=PRESSURES,
    )
