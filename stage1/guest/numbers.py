# SPDX-License-Identifier: Apache-2.0
"""The messages of proto/agent/agent.proto about statistics and the pod as a whole: Stats with its answers, Tune, Freeze
and Shares. Pure.

Used through `messages`, which has the rest. Sizes are bytes, CPU times microseconds; 0 is what the guest can't measure.
"""

from typing import NamedTuple

from stage1.guest import wire
from stage1.guest.wire import Field

__all__ = [
    "ContainerStats",
    "CpuStats",
    "Freeze",
    "InterfaceStats",
    "MemoryStats",
    "PodStats",
    "Shares",
    "Stats",
    "Tune",
]


class Stats(NamedTuple):
    """Asks for numbers, from entry `first` of the agent's table; `disk` and `files` for those that take longer."""

    first: int = 0
    disk: bool = False
    files: bool = False


class Tune(NamedTuple):
    """Writes `text` to a `file` of the cgroup of all containers together, memory.* or cpu.*."""

    file: str = ""
    text: str = ""


class Freeze(NamedTuple):
    """Stops the processes of a container, or of all together, and answers when they stand still; or lets them go on."""

    container: str = ""
    thaw: bool = False


class Shares(NamedTuple):
    """Unmounts the pod's directories on the host, or mounts them again."""

    mount: bool = False


class CpuStats(NamedTuple):
    """Since the beginning; `periods` are those of the quota."""

    usage_us: int = 0
    user_us: int = 0
    system_us: int = 0
    periods: int = 0
    throttled_periods: int = 0
    throttled_us: int = 0


class MemoryStats(NamedTuple):
    """`limit` 0 is none; `limit_hits` and `oom_kills` are counts, as the faults are."""

    usage: int = 0
    peak: int = 0
    limit: int = 0
    inactive_file: int = 0
    active_file: int = 0
    anonymous: int = 0
    cache: int = 0
    kernel: int = 0
    mapped: int = 0
    swap: int = 0
    faults: int = 0
    major_faults: int = 0
    limit_hits: int = 0
    oom_kills: int = 0

    @property
    def working_set(self) -> int:
        """Memory that the kernel can't easily reclaim."""
        return max(self.usage - self.inactive_file, 0)


class Pressure(NamedTuple):
    """Pressure stall information: averages over that many seconds in hundredths of a percent; the kernel's
    accounting/psi.
    """

    some_10: int = 0
    some_60: int = 0
    some_300: int = 0
    some_us: int = 0
    full_10: int = 0
    full_60: int = 0
    full_300: int = 0
    full_us: int = 0


class Pressures(NamedTuple):
    """Pressure stall information for the three resources that the kernel watches."""

    cpu: Pressure | None = None
    memory: Pressure | None = None
    io: Pressure | None = None


class ContainerStats(NamedTuple):
    """One started container; `at_ns` is of the guest's boot clock, for rates."""

    id: str = ""
    at_ns: int = 0
    cpu: CpuStats | None = None
    memory: MemoryStats | None = None
    threads: int = 0
    threads_max: int = 0
    processes: int = 0
    files: int = 0
    sockets: int = 0
    read_bytes: int = 0
    reads: int = 0
    written_bytes: int = 0
    writes: int = 0
    disk_bytes: int = 0
    disk_inodes: int = 0
    pressures: Pressures | None = None


class InterfaceStats(NamedTuple):
    """One network interface of the guest."""

    name: str = ""
    rx_bytes: int = 0
    rx_packets: int = 0
    rx_errors: int = 0
    rx_dropped: int = 0
    tx_bytes: int = 0
    tx_packets: int = 0
    tx_errors: int = 0
    tx_dropped: int = 0


class PodStats(NamedTuple):
    """The guest as a whole. `next` is the start of the next Stats, 0 after the last container."""

    at_ns: int = 0
    cpu: CpuStats | None = None
    memory: MemoryStats | None = None
    threads: int = 0
    interfaces: tuple[InterfaceStats, ...] = ()
    disk_bytes: int = 0
    disk_free: int = 0
    disk_inodes: int = 0
    disk_inodes_free: int = 0
    next: int = 0
    pressures: Pressures | None = None


MOST_CONTAINERS, MOST_STATS, MOST_INTERFACES = 256, 64, 16
"""Limits for one reply, twice what our agent has or sends; a reply with more is invalid."""

_U32, _U64, _BOOL, _STR = Field(wire.U32), Field(wire.U64), Field(wire.BOOL), Field(wire.STR)
_CPU, _MEMORY = Field(wire.MESSAGE, CpuStats), Field(wire.MESSAGE, MemoryStats)
_PRESSURES = Field(wire.MESSAGE, Pressures)

TABLES: wire.Tables = {
    Stats: (_U32, _BOOL, _BOOL),
    Tune: (_STR, _STR),
    Freeze: (_STR, _BOOL),
    Shares: (_BOOL,),
    CpuStats: (_U64,) * 6,
    MemoryStats: (_U64,) * 14,
    Pressure: (_U64,) * 8,
    Pressures: (Field(wire.MESSAGE, Pressure),) * 3,
    ContainerStats: (_STR, _U64, _CPU, _MEMORY, *(_U64,) * 11, _PRESSURES),
    InterfaceStats: (_STR, *(_U64,) * 8),
    PodStats: (
        _U64,
        _CPU,
        _MEMORY,
        _U64,
        Field(wire.MESSAGE, InterfaceStats, many=True, most=MOST_INTERFACES),
        *(_U64,) * 4,
        _U32,
        _PRESSURES,
    ),
}
