# SPDX-License-Identifier: Apache-2.0
"""`scripts/bench density`: what pods take of the host's memory, with and without each technique that makes it less.

For each number of pods and each way of running them: boot them idle, look, let the daemon merge equal pages (KSM),
look again. Then pods that each serve a page. `--svg DIR` draws it. On QEMU's emulator the VMM also holds the code that
it has translated; kvmtool needs KVM, so run it in the lab: docs/lab.md. KSM works on the whole host meanwhile, and is
given back.
"""

import sys
from pathlib import Path

sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != Path(__file__).parent]  # hides `cri`

import argparse  # noqa: E402
import asyncio  # noqa: E402
import json  # noqa: E402
import os  # noqa: E402
import platform  # noqa: E402
import statistics  # noqa: E402
import time  # noqa: E402
from typing import Any, NamedTuple  # noqa: E402

from stage1.linux import ksm  # noqa: E402
from stage1.linux.ksm import Ksm  # noqa: E402
from tests.bench.lib import density_plots, footprint, kernel_cost, peer, pods  # noqa: E402
from tests.bench.lib.pods import Place, Way  # noqa: E402

BUDGET_MIB, DAEMON_MIB, BESIDE_MIB = 10.0, 1.0, 8.0
"""An idle pod's own memory with everything on; what the daemon grows by per pod; a VMM's memory beside the guest's."""
LOOK_S = 5.0
CALM = "watch"
PEERS = 3


class Plan(NamedTuple):
    """One row: so many pods, run this way."""

    pods: int
    serving: bool
    way: Way


async def measure(plan: Plan, *, ksm_limit_s: float, settle_s: float) -> dict[str, Any]:
    """The row's figures, before KSM and after it; without the latter when `ksm_limit_s` is 0."""
    async with pods.place(plan.way) as place:
        empty = footprint.host()
        async with pods.daemon(place) as (process, cri):
            await _warm(cri)
            idle_mib = footprint.rollup(process.pid)["Pss"] / 1024
            begun = time.monotonic()
            await pods.add(cri, plan.pods, serving=plan.serving)
            booted_s = time.monotonic() - begun
            await asyncio.sleep(settle_s)
            row = _row(plan, place) | {"boot_s": round(booted_s, 1), "daemon_idle_mib": round(idle_mib, 1)}
            loaded = footprint.rollup(process.pid)["Pss"] / 1024
            row["daemon_mib_per_pod"] = round((loaded - idle_mib) / plan.pods, 3)
            row["daemon_descriptors_per_pod"] = _per_pod(len(os.listdir(f"/proc/{process.pid}/fd")) - 20, plan.pods)
            row["resident_beside"] = pods.others(place, {process.pid, *place.vmms()})
            mounts = kernel_cost.mounts(process.pid, place.run_dir)
            row["mounts_per_pod"], row["mounts_in_vmm"] = _per_pod(mounts, plan.pods), _most_mounts(place)
            row["ready"] = await pods.count_ready(cri)
            row["before"] = _look(place, empty, plan.pods)
        if ksm_limit_s:
            row["ksm"] = await _merged(place, plan.pods, empty=empty, limit_s=ksm_limit_s)
    return row


async def _warm(cri: Any) -> None:
    """What the first pod makes the daemon load is not what each adds."""
    await pods.add(cri, 1, serving=False)
    for one in (await cri("ListPodSandbox")).items:
        await cri("RemovePodSandbox", pod_sandbox_id=one.id)


def _row(plan: Plan, place: Place) -> dict[str, Any]:
    way, run_dir = plan.way, Path(place.run_dir)
    device = run_dir.stat().st_dev
    files = (path.lstat() for path in run_dir.rglob("*"))
    used = sum(file.st_blocks * 512 for file in files if file.st_dev == device)
    return {
        "pods": plan.pods,
        "serving": plan.serving,
        "hypervisor": place.choice.driver,
        "accel": place.choice.accel,
        "huge_pages": way.huge_pages,
        "dax": way.dax and place.choice.driver == "kvmtool",
        "memory_mib": way.memory_mib,
        "run_dir_kib_per_pod": _per_pod(used / 1024, plan.pods),
    }


def _most_mounts(place: Place) -> int:
    return max(kernel_cost.mounts(pid, place.run_dir) for pid in place.vmms())


def _per_pod(value: float, count: int) -> float:
    return round(value / count, 2)


def _look(place: Place, empty: dict[str, int], count: int) -> dict[str, float]:
    """MiB of one pod, on average; counts for what is no memory."""
    images = (f"{place.guest}/system.erofs",)
    all_of_them = [footprint.of(pid, images) for pid in place.vmms()]
    now = footprint.host()
    found = {
        name: round(statistics.mean(getattr(one, name) for one in all_of_them) / 1024, 2)
        for name in ("unique", "guest", "beside", "dax", "rss", "huge", "page_tables")
    }
    merged = [ksm.merged(pid) for pid in place.vmms()]
    found["merged"] = round(statistics.mean(one.pages + one.zero_pages for one in merged) / 256, 2)
    found["host"] = _per_pod((empty["available"] - now["available"]) / 1024, count)
    found["kernel"] = _per_pod((now["kernel"] - empty["kernel"]) / 1024, count)
    found["most_unique"] = round(max(one.unique for one in all_of_them) / 1024, 2)
    return found | {name: max(getattr(one, name) for one in all_of_them) for name in ("descriptors", "threads")}


async def _merged(place: Place, count: int, *, empty: dict[str, int], limit_s: float) -> dict[str, Any]:
    """The same pods under a daemon that merges, once it has calmed down."""
    thread, series = ksm.find_thread(), []
    async with pods.daemon(place, ksm=True):
        before_s, begun = ksm.thread_cpu_s(thread), time.monotonic()
        while (at_s := time.monotonic() - begun) < limit_s:
            await asyncio.sleep(LOOK_S)
            mean = statistics.mean(footprint.rollup(pid)["Pss_Anon"] for pid in place.vmms()) / 1024
            used = ksm.thread_cpu_s(thread) - before_s
            series.append([round(at_s + LOOK_S, 1), round(mean, 2), round(used, 2)])
            if _level(place) == CALM and len(series) > 3:
                break
        counters = Ksm().counters()
        found = _look(place, empty, count) | {"series": series, "calm": _level(place) == CALM}
        under = [at for at, mib, _ in series if mib <= BUDGET_MIB]
        found["budget_after_s"] = under[0] if under else None
        found["seconds"], _, found["ksmd_s"] = series[-1]
        return found | {"general_profit_mib": round(counters.general_profit / (1 << 20), 1)}


def _level(place: Place) -> str:
    try:
        return str(json.loads(Path(f"{place.run_dir}/ksm.json").read_text(encoding="utf-8"))["level"])
    except (OSError, ValueError):
        return ""


def plans(args: argparse.Namespace) -> list[Plan]:
    """All rows that were asked for."""
    base = Way(args.hypervisor, memory_mib=args.memory_mib, ksm_percent=args.ksm_percent)
    ways = {"all": base, "huge-pages": base._replace(huge_pages=True), "no-dax": base._replace(dax=False)}
    wanted = [ways[name] for name in args.way]
    rows = [Plan(count, False, way) for way in wanted for count in args.pods]
    return rows + [Plan(args.serving, True, way) for way in wanted if args.serving]


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="scripts/bench density", description=__doc__)
    parser.add_argument("--json", action="store_true", help="one JSON object")
    parser.add_argument("--svg", type=Path, metavar="DIR", help="draw plots into DIR")
    parser.add_argument("--pods", type=lambda text: [int(n) for n in text.split(",")], default=[1, 10, 20, 50])
    parser.add_argument("--serving", type=int, default=20, help="pods that serve a page; 0: none (20)")
    parser.add_argument("--hypervisor", choices=("auto", "kvmtool", "qemu"), default="auto")
    parser.add_argument("--memory-mib", type=int, default=128, help="of each VM (128)")
    parser.add_argument(
        "--way", action="append", choices=("all", "huge-pages", "no-dax"), help="leave the other ways out"
    )
    parser.add_argument("--ksm-limit", type=float, default=180, metavar="S", help="how long to merge at most; 0: not")
    parser.add_argument("--ksm-percent", type=float, default=20, help="of a processor, for merging (20)")
    parser.add_argument("--settle", type=float, default=10, metavar="S", help="wait before looking (10)")
    parser.add_argument("--peer", type=Path, metavar="VENV", help="also microsandbox, installed there from PyPI")
    args = parser.parse_args(argv)
    args.way = args.way or ["all", "huge-pages", "no-dax"]
    return args


async def run_and_restore(args: argparse.Namespace) -> dict[str, Any]:
    """As `run`; KSM is as before also when a daemon was killed."""
    found = Ksm().settings()
    try:
        return await run(args)
    finally:
        Ksm().apply(found)


async def run(args: argparse.Namespace) -> dict[str, Any]:
    """The whole report; a line on standard error for each row."""
    rows = []
    for plan in plans(args):
        if not plan.way.dax and pods.choose(plan.way.hypervisor, pods.host_facts()).driver != "kvmtool":
            continue  # QEMU has none to leave out
        row = await measure(plan, ksm_limit_s=args.ksm_limit, settle_s=args.settle)
        print(text(row), file=sys.stderr, flush=True)
        rows.append(row)
    thp = Path("/sys/kernel/mm/transparent_hugepage/enabled").read_text(encoding="ascii").strip()
    host = {"kernel": platform.release(), "huge_pages": thp, "cpus": os.cpu_count()}
    budgets = {"unique_mib": BUDGET_MIB, "daemon_mib_per_pod": DAEMON_MIB, "beside_mib": BESIDE_MIB}
    kernel = {"mount_bytes": kernel_cost.mount_bytes(), "network_kib": kernel_cost.network_kib()}
    report = {"host": host, "kernel": kernel, "budgets": budgets, "rows": rows}
    if args.peer:
        report["peer"] = peer.measure(
            args.peer, pods.guest_dir(), count=PEERS, memory_mib=args.memory_mib, settle_s=args.settle
        )
    return report


def text(row: dict[str, Any]) -> str:
    """One row for people."""
    before, after = row["before"], row.get("ksm")
    kind = "serving" if row["serving"] else "idle"
    ways = ", ".join(name for name in ("huge_pages", "dax") if row[name]) or "small pages"
    line = f"{row['hypervisor']:<8} {row['pods']:>3} {kind:<7} {ways:<18} unique {before['unique']:>7.2f} MiB"
    line += f" beside {before['beside']:>6.2f} host {before['host']:>7.2f} daemon +{row['daemon_mib_per_pod']:.3f}"
    if after:
        line += f" | KSM: unique {after['unique']:>6.2f} after {after['seconds']:.0f} s, ksmd {after['ksmd_s']:.1f} s"
    return line


def main() -> int:
    """Print the report; 1 when a pod of it had died."""
    args = parse()
    report = asyncio.run(run_and_restore(args))
    if args.svg:
        density_plots.write(report, args.svg)
    if args.json:
        print(json.dumps(report))
    return 0 if all(row["ready"] == row["pods"] for row in report["rows"]) else 1


if __name__ == "__main__":
    sys.exit(main())
