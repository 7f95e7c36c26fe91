# SPDX-License-Identifier: Apache-2.0
"""What processes take of the host's memory, as the kernel tells it in /proc/PID/smaps. For benchmarks.

Guest RAM is told from the rest of a VMM by its mark MADV_MERGEABLE (`mg`), which both hypervisors give it alone.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

KIB = 1024
HEAD = re.compile(r"^[0-9a-f]+-[0-9a-f]+ ")


class Footprint(NamedTuple):
    """Of one VMM, in KiB.

    `unique` is what no other process has: its anonymous pages, merged ones by their part. `guest` is that part of it
    which is guest RAM, `beside` all of the VMM's PSS that is not. `dax` are pages of files mapped into the guest, by
    their part. `page_tables` are the kernel's for it.
    """

    unique: float
    guest: float
    beside: float
    dax: float
    rss: float
    huge: float
    page_tables: float
    descriptors: int
    threads: int


def of(pid: int, images: tuple[str, ...]) -> Footprint:
    """`images` are the files whose mappings count as DAX."""
    found = {"unique": 0, "guest": 0, "all": 0, "dax": 0, "rss": 0, "huge": 0}
    for name, numbers, flags in _mappings(pid):
        found["all"] += numbers["Pss"]
        found["unique"] += numbers.get("Pss_Anon", numbers["Pss"] if not name.startswith("/") else 0)
        found["rss"] += numbers["Rss"]
        found["huge"] += numbers["AnonHugePages"]
        found["dax"] += numbers["Pss"] if name in images else 0
        found["guest"] += numbers["Pss"] if "mg" in flags else 0
    anonymous = rollup(pid).get("Pss_Anon", found["unique"])
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace")
    return Footprint(
        unique=anonymous,
        guest=found["guest"],
        beside=found["all"] - found["guest"] - found["dax"],
        dax=found["dax"],
        rss=found["rss"],
        huge=found["huge"],
        page_tables=_field(status, "VmPTE"),
        descriptors=len(os.listdir(f"/proc/{pid}/fd")),
        threads=_field(status, "Threads"),
    )


def rollup(pid: int) -> dict[str, int]:
    """The sums of all mappings, KiB by name."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="utf-8").splitlines()[1:]
    return {line.partition(":")[0]: int(line.split()[1]) for line in lines}


def _mappings(pid: int) -> Iterator[tuple[str, dict[str, int], list[str]]]:
    """Name, numbers in KiB and flags of each mapping."""
    name, numbers = "", {}
    for line in Path(f"/proc/{pid}/smaps").read_text(encoding="utf-8", errors="replace").splitlines():
        if HEAD.match(line):
            words = line.split(maxsplit=5)
            name, numbers = words[5] if len(words) > 5 else "", {}
        elif line.startswith("VmFlags:"):
            yield name, numbers, line.split()[1:]
        elif line.endswith(" kB"):
            numbers[line.partition(":")[0]] = int(line.split()[1])


def _field(status: str, name: str) -> int:
    found = re.search(rf"^{name}:\s+(\d+)", status, re.MULTILINE)
    return int(found[1]) if found else 0


def host() -> dict[str, int]:
    """The host's own account, in KiB: what is available, and what the kernel needs for all that runs."""
    lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
    found = {line.partition(":")[0]: int(line.split()[1]) for line in lines}
    kernel = ("Slab", "KernelStack", "PageTables", "Percpu")
    return {"available": found["MemAvailable"], "kernel": sum(found.get(name, 0) for name in kernel)}
