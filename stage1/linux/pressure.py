# SPDX-License-Identifier: Apache-2.0
"""The host's shortage of memory and processors: PSI and meminfo. See the kernel's accounting/psi. Used by
`cri.memory`. On a kernel without PSI nothing is known to be short.
"""

from typing import NamedTuple

from stage1.errors import KernelError
from stage1.linux import files

PRESSURE, MEMINFO = "/proc/pressure", "/proc/meminfo"


class Memory(NamedTuple):
    """Memory of this host in bytes; 0 when it is not known."""

    total: int = 0
    available: int = 0

    @property
    def free_percent(self) -> float:
        """The available share of memory; all of it if unknown."""
        return 100.0 * self.available / self.total if self.total else 100.0


class Shortage(NamedTuple):
    """The share of the last ten seconds that tasks have waited, in percent, and the available share of memory."""

    memory_waits: float = 0.0
    cpu_waits: float = 0.0
    free_percent: float = 100.0


def shortage() -> Shortage:
    """Measure how short of memory and processor time this host is now."""
    return Shortage(some_percent("memory"), some_percent("cpu"), memory().free_percent)


def some_percent(resource: str, *, directory: str = PRESSURE) -> float:
    """The part of the last ten seconds in which tasks have waited for `resource`: memory, cpu or io; 0 without PSI."""
    try:
        first = files.read(f"{directory}/{resource}").decode("ascii", "replace").partition("\n")[0]
        return float(dict(word.partition("=")[::2] for word in first.split())["avg10"])
    except (KernelError, OSError, KeyError, ValueError):
        return 0.0


def memory(path: str = MEMINFO) -> Memory:
    """Return the host's memory, from meminfo."""
    try:
        text = files.read(path)
        return Memory(_bytes(text, b"MemTotal:"), _bytes(text, b"MemAvailable:"))
    except (KernelError, OSError, ValueError):
        return Memory()


def _bytes(text: bytes, name: bytes) -> int:
    """The number in the line of meminfo that begins with `name`; 0 if there is none. Raises ValueError."""
    fields = (b"\n" + text).partition(b"\n" + name)[2].partition(b"\n")[0].split()
    return int(fields[0]) << 10 if len(fields) == 2 else 0
