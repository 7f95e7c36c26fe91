# SPDX-License-Identifier: Apache-2.0
"""What the pods of a `Place` take of the host's memory now, and while KSM merges it. For density.py and pool.py."""

import asyncio
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from stage1.errors import PodError
from stage1.linux import ksm
from stage1.linux.ksm import Ksm
from tests.bench.lib import footprint
from tests.bench.lib.pods import Place

Value = TypeVar("Value")

BUDGET_MIB = 10.0
"""An idle pod's own memory with everything on."""
SAMPLE_S = 5.0
CALM = "watch"
FIELDS = ("unique", "guest", "beside", "dax", "dax_seen", "rss", "huge", "page_tables")


def measure(place: Place, empty: dict[str, int], count: int) -> dict[str, float]:
    """MiB of one pod, on average; counts for what is no memory."""
    by_pid = {pid: one for pid in place.vmms() if (one := _or_none(footprint.of, pid))}
    sizes, now = list(by_pid.values()), footprint.host()
    result = {name: round(statistics.mean(getattr(one, name) for one in sizes) / 1024, 2) for name in FIELDS}
    merged = [pages for pid in by_pid if (pages := _or_none(ksm.merged, pid))]
    result["merged"] = round(statistics.mean(pages.pages + pages.zero_pages for pages in merged) / 256, 2)
    result["host"] = round((empty["available"] - now["available"]) / 1024 / count, 2)
    result["kernel"] = round((now["kernel"] - empty["kernel"]) / 1024 / count, 2)
    result["median_unique"] = round(statistics.median(one.unique for one in sizes) / 1024, 2)
    result["most_unique"] = round(max(one.unique for one in sizes) / 1024, 2)
    result["vmms"] = len(sizes)
    return result | {name: max(getattr(one, name) for one in sizes) for name in ("descriptors", "threads")}


async def until_calm(place: Place, count: int, *, empty: dict[str, int], limit_s: float) -> dict[str, Any]:
    """The same once the daemon that merges has calmed down, and what it took. The daemon has just started.

    `series` has seconds, MiB of a pod, and seconds of ksmd. Raises StatisticsError when no VM is there.
    """
    thread, series = ksm.find_thread(), []
    before_s, begun = ksm.thread_cpu_s(thread), time.monotonic()
    while (at_s := time.monotonic() - begun) < limit_s:
        await asyncio.sleep(SAMPLE_S)
        sizes = (_or_none(footprint.rollup, pid) for pid in place.vmms())
        mean = statistics.mean(size["Pss_Anon"] for size in sizes if size) / 1024
        used = ksm.thread_cpu_s(thread) - before_s
        series.append([round(at_s + SAMPLE_S, 1), round(mean, 2), round(used, 2)])
        if _level(place) == CALM and len(series) > 3:
            break
    result: dict[str, Any] = measure(place, empty, count) | {"series": series, "calm": _level(place) == CALM}
    under = [(at, used) for at, mib, used in series if mib <= BUDGET_MIB]
    result["budget_after_s"], result["budget_ksmd_s"] = under[0] if under else (None, None)
    result["seconds"], _, result["ksmd_s"] = series[-1]
    return result | {"general_profit_mib": round(Ksm().counters().general_profit / (1 << 20), 1)}


def _or_none(read: Callable[[int], Value], pid: int) -> Value | None:
    """None for a VMM that has just ended; the row says how many were there."""
    try:
        return read(pid)
    except (OSError, PodError):
        return None


def _level(place: Place) -> str:
    try:
        return str(json.loads(Path(f"{place.run_dir}/ksm.json").read_text(encoding="utf-8"))["level"])
    except (OSError, ValueError):
        return ""
