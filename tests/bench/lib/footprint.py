# SPDX-License-Identifier: Apache-2.0
"""Host memory of processes, from /proc/PID/smaps. For benchmarks.

Guest RAM is distinguished from the rest of a VMM by its flag MADV_MERGEABLE (`mg`), which both hypervisors give it
alone.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

KIB = 1024
IMAGE = ".erofs"
HEAD = re.compile(r"^[0-9a-f]+-[0-9a-f]+ ")


class Footprint(NamedTuple):
    """Of one VMM, in KiB.

    `unique` is what no other process has: its anonymous pages, merged ones by their part. `guest` is that part of it
    which is guest RAM, `rest` all of the VMM's PSS that is not. `dax` are pages of images mapped into the guest, by
    their part, `dax_seen` the same in full. `page_tables` are the kernel's for it.
    """

    unique: float
    guest: float
    rest: float
    dax: float
    dax_seen: float
    rss: float
    huge: float
    page_tables: float
    descriptors: int
    threads: int


def of(pid: int) -> Footprint:
    """Files that end in `.erofs` are images: a VMM maps no other such file, and what it reads as a disk not at all."""
    smaps = Path(f"/proc/{pid}/smaps").read_text(encoding="utf-8", errors="replace")
    result = sums(smaps)
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace")
    return Footprint(
        unique=rollup(pid).get("Pss_Anon", result["unique"]),
        guest=result["guest"],
        rest=result["all"] - result["guest"] - result["dax"],
        dax=result["dax"],
        dax_seen=result["dax_seen"],
        rss=result["rss"],
        huge=result["huge"],
        page_tables=_field(status, "VmPTE"),
        descriptors=len(os.listdir(f"/proc/{pid}/fd")),
        threads=_field(status, "Threads"),
    )


def sums(smaps: str) -> dict[str, int]:
    """KiB of all mappings and of each kind, from the text of /proc/PID/smaps."""
    result = dict.fromkeys(("unique", "guest", "all", "dax", "dax_seen", "rss", "huge"), 0)
    for name, numbers, flags in _mappings(smaps):
        result["all"] += numbers["Pss"]
        result["unique"] += numbers.get("Pss_Anon", numbers["Pss"] if not name.startswith("/") else 0)
        result["rss"] += numbers["Rss"]
        result["huge"] += numbers["AnonHugePages"]
        result["guest"] += numbers["Pss"] if "mg" in flags else 0
        if name.removesuffix(" (deleted)").endswith(IMAGE):
            result["dax"] += numbers["Pss"]
            result["dax_seen"] += numbers["Rss"]
    return result


def rollup(pid: int) -> dict[str, int]:
    """The sums of all mappings, KiB by name."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="utf-8").splitlines()[1:]
    return {line.partition(":")[0]: int(line.split()[1]) for line in lines}


def _mappings(smaps: str) -> Iterator[tuple[str, dict[str, int], list[str]]]:
    """Name, numbers in KiB and flags of each mapping."""
    name, numbers = "", {}
    for line in smaps.splitlines():
        if HEAD.match(line):
            fields = line.split(maxsplit=5)
            name, numbers = fields[5] if len(fields) > 5 else "", {}
        elif line.startswith("VmFlags:"):
            yield name, numbers, line.split()[1:]
        elif line.endswith(" kB"):
            numbers[line.partition(":")[0]] = int(line.split()[1])


def _field(status: str, name: str) -> int:
    match = re.search(rf"^{name}:\s+(\d+)", status, re.MULTILINE)
    return int(match[1]) if match else 0


def host() -> dict[str, int]:
    """The host's own account, in KiB: what is available, and what the kernel needs for all that runs."""
    lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
    result = {line.partition(":")[0]: int(line.split()[1]) for line in lines}
    kernel = ("Slab", "KernelStack", "PageTables", "Percpu")
    return {"available": result["MemAvailable"], "kernel": sum(result.get(name, 0) for name in kernel)}
