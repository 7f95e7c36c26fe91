# SPDX-License-Identifier: Apache-2.0
"""`scripts/bench density`: what pods take of the host's memory, with and without each technique that makes it less.

For each number of pods and each way of running them: boot them idle, look, let the daemon merge equal pages (KSM),
look again. Then pods that each serve a page. `--svg DIR` draws it. On QEMU's emulator the VMM also holds the code that
it has translated; kvmtool needs KVM, so `--lab` runs it in there (docs/dev/testing.md). KSM works on the whole host
meanwhile, and is given back.
"""

import sys
from pathlib import Path

sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != Path(__file__).parent]  # hides `cri`

import argparse  # noqa: E402
import asyncio  # noqa: E402
import json  # noqa: E402
import os  # noqa: E402
import platform  # noqa: E402
import time  # noqa: E402
from contextlib import AsyncExitStack  # noqa: E402
from typing import Any, NamedTuple  # noqa: E402

from stage1.linux.ksm import Ksm  # noqa: E402
from stage1.vm import hypervisors  # noqa: E402
from stage1.vm.choose import choose  # noqa: E402
from tests.bench.lib import census, density_plots, first_output, footprint, in_lab, kernel_cost, peer, pods  # noqa: E402
from tests.bench.lib.journal import Journal  # noqa: E402
from tests.bench.lib.pods import Place, Setup  # noqa: E402
from tests.cri.conftest import Client  # noqa: E402
from tests.lab.state import LabError  # noqa: E402

DAEMON_MIB, OVERHEAD_MIB = 1.0, 8.0
"""What the daemon grows by per pod; a VMM's memory beside the guest's."""
PEERS = 3
AROUND, OWN, PEER = "around", "own", "peer"
"""Names in the journal and in the report, beside those of rows."""
PASSED_ON = ("hypervisor", "serving", "memory_mib", "ksm_limit", "ksm_percent", "settle")


class Plan(NamedTuple):
    """One row: so many pods, run this way."""

    pods: int
    serving: bool
    setup: Setup

    @property
    def name(self) -> str:
        """Of the row in the journal: all that decides it."""
        return json.dumps(self)


async def measure(plan: Plan, *, ksm_limit_s: float, settle_s: float) -> dict[str, Any]:
    """The row's figures, before KSM and after it; without the latter when `ksm_limit_s` is 0."""
    async with pods.place(plan.setup) as place, AsyncExitStack() as later:
        empty = footprint.host()
        async with pods.loaded(place) as process, pods.daemon(place, process) as cri:
            row = await _unmerged(plan, place, process=process, cri=cri, settle_s=settle_s)
            row["before"] = census.measure(place, empty, plan.pods)
            heir = await later.enter_async_context(pods.loaded(place, ksm=True)) if ksm_limit_s else None
        if heir is not None:
            async with pods.daemon(place, heir):
                row["ksm"] = await census.until_calm(place, plan.pods, empty=empty, limit_s=ksm_limit_s)
    return row


async def _unmerged(plan: Plan, place: Place, *, process: pods.Process, cri: Client, settle_s: float) -> dict[str, Any]:
    """Boot the pods; what the row is, and what the daemon takes for them."""
    await _warm(cri)
    idle_mib = footprint.rollup(process.pid)["Pss"] / 1024
    begun = time.monotonic()
    failed = await pods.add(cri, plan.pods, serving=plan.serving)
    booted_s = time.monotonic() - begun
    await asyncio.sleep(settle_s)
    row = _row(plan, place) | {"boot_s": round(booted_s, 1), "failed_boots": failed}
    row["daemon_idle_mib"] = round(idle_mib, 1)
    loaded = footprint.rollup(process.pid)["Pss"] / 1024
    row["daemon_mib_per_pod"] = round((loaded - idle_mib) / plan.pods, 3)
    row["daemon_descriptors_per_pod"] = _per_pod(len(os.listdir(f"/proc/{process.pid}/fd")) - 20, plan.pods)
    row["resident_beside"] = pods.others(place, {process.pid, *place.vmms()})
    mounts = kernel_cost.mounts(process.pid, place.run_dir)
    row["mounts_per_pod"], row["mounts_in_vmm"] = _per_pod(mounts, plan.pods), _most_mounts(place)
    row["ready"] = await pods.count_ready(cri)
    return row


async def _warm(cri: Any) -> None:
    """What the first pod makes the daemon load is not what each adds."""
    await pods.add(cri, 1, serving=False)
    for one in (await cri("ListPodSandbox")).items:
        await cri("RemovePodSandbox", pod_sandbox_id=one.id)


def _row(plan: Plan, place: Place) -> dict[str, Any]:
    setup, run_dir = plan.setup, Path(place.run_dir)
    device = run_dir.stat().st_dev
    files = (path.lstat() for path in run_dir.rglob("*"))
    used = sum(file.st_blocks * 512 for file in files if file.st_dev == device)
    return {
        "pods": plan.pods,
        "serving": plan.serving,
        "hypervisor": place.choice.hypervisor.name,
        "accel": place.choice.accel,
        "huge_pages": setup.huge_pages,
        "dax": setup.dax and place.choice.hypervisor.name == "kvmtool",
        "memory_mib": setup.memory_mib,
        "ksm_percent": setup.ksm_percent,
        "run_dir_kib_per_pod": _per_pod(used / 1024, plan.pods),
    }


def _most_mounts(place: Place) -> int:
    return max(kernel_cost.mounts(pid, place.run_dir) for pid in place.vmms())


def _per_pod(value: float, count: int) -> float:
    return round(value / count, 2)


def plans(args: argparse.Namespace) -> list[Plan]:
    """All rows that were asked for."""
    base = Setup(args.hypervisor, memory_mib=args.memory_mib, ksm_percent=args.ksm_percent)
    setups = {"all": base, "huge-pages": base._replace(huge_pages=True), "no-dax": base._replace(dax=False)}
    if not args.lab and choose(args.hypervisor, hypervisors.facts()).hypervisor.name != "kvmtool":
        del setups["no-dax"]  # QEMU has none to leave out
    expected = [setups[name] for name in args.setup if name in setups]
    rows = [Plan(count, False, setup) for setup in expected for count in args.pods]
    return rows + [Plan(args.serving, True, setup) for setup in expected if args.serving]


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="scripts/bench density", description=__doc__)
    parser.add_argument("--json", action="store_true", help="one JSON object")
    parser.add_argument("--svg", type=Path, metavar="DIR", help="draw plots into DIR")
    parser.add_argument("--pods", type=_numbers, default=[1, 10, 20, 50], metavar="N,N", help="idle (1,10,20,50)")
    parser.add_argument("--serving", type=int, default=20, help="pods that serve a page; 0: none (20)")
    parser.add_argument("--hypervisor", choices=("auto", "kvmtool", "qemu"), default="auto")
    parser.add_argument("--memory-mib", type=int, default=128, help="of each VM (128)")
    parser.add_argument(
        "--setup", action="append", choices=("all", "huge-pages", "no-dax"), help="leave the others out"
    )
    parser.add_argument("--ksm-limit", type=float, default=180, metavar="S", help="how long to merge at most; 0: not")
    parser.add_argument("--ksm-percent", type=float, default=20.0, help="of a processor, for merging (20)")
    parser.add_argument("--settle", type=float, default=10, metavar="S", help="wait before looking (10)")
    parser.add_argument("--peer", type=Path, metavar="VENV", help="also microsandbox, installed there from PyPI")
    parser.add_argument("--journal", type=Path, metavar="FILE", help="keep each row there, and leave out what is there")
    parser.add_argument("--from", dest="source", type=Path, metavar="FILE", help="measure nothing: a report, a journal")
    parser.add_argument("--lab", action="store_true", help="with kvmtool, in the lab")
    parser.add_argument("--path", action="append", default=[], metavar="DIR", help="where lkvm is, for --lab")
    args = parser.parse_args(argv)
    args.setup = args.setup or ["all", "huge-pages", "no-dax"]
    return args


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",") if number]


async def run_and_restore(args: argparse.Namespace) -> dict[str, Any]:
    """As `run`, with KSM off where it is not measured, and in the end as before, also when a daemon was killed."""
    result = Ksm().settings()
    try:
        Ksm().apply(result._replace(run=0))
        return await run(args)
    finally:
        Ksm().apply(result)


async def run(args: argparse.Namespace) -> dict[str, Any]:
    """The whole report, what the journal has already left as it is; a line on standard error for each new row."""
    journal = Journal(args.journal)
    for plan in plans(args):
        if journal.find(plan.name) is None:
            row = await measure(plan, ksm_limit_s=args.ksm_limit, settle_s=args.settle)
            journal.add(plan.name, row)
            print(text(row), file=sys.stderr, flush=True)
    if journal.find(AROUND) is None:
        journal.add(AROUND, _around())
    if args.peer:
        await _compare(args, journal)
    return report(args, journal)


def report(args: argparse.Namespace, journal: Journal) -> dict[str, Any]:
    """The whole report from a journal that has all of it."""
    result: dict[str, Any] = journal.find(AROUND) | {"rows": [journal.find(plan.name) for plan in plans(args)]}
    return result | ({name: journal.find(name) for name in (OWN, PEER)} if args.peer else {})


def read(path: Path) -> dict[str, Any]:
    """A report that was printed, or one of all that is in a journal (*.jsonl)."""
    if path.suffix != ".jsonl":
        result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return result
    journal = Journal(path)
    rows = [journal.find(name) for name in journal.names() if name.startswith("[")]
    rows.sort(key=lambda row: (row["serving"], not row["dax"], row["huge_pages"], row["pods"], -row["ksm_percent"]))
    compared = {name: result for name in (OWN, PEER) if (result := journal.find(name))}
    around: dict[str, Any] = journal.find(AROUND)
    return around | {"rows": rows} | compared


def _around() -> dict[str, Any]:
    """What belongs to no row."""
    thp = Path("/sys/kernel/mm/transparent_hugepage/enabled").read_text(encoding="ascii").strip()
    return {
        "host": {
            "date": time.strftime("%Y-%m-%d"),
            "kernel": platform.release(),
            "huge_pages": thp,
            "cpus": os.cpu_count(),
        },
        "kernel": {"mount_bytes": kernel_cost.mount_bytes(), "network_kib": kernel_cost.network_kib()},
        "budgets": {"unique_mib": census.BUDGET_MIB, "daemon_mib_per_pod": DAEMON_MIB, "beside_mib": OVERHEAD_MIB},
    }


async def _compare(args: argparse.Namespace, journal: Journal) -> None:
    """The time until a pod of ours has said something, and the peer."""
    if journal.find(OWN) is None:
        journal.add(OWN, await first_output.measure(Setup(args.hypervisor, memory_mib=args.memory_mib)))
    if journal.find(PEER) is None:
        result = await asyncio.to_thread(
            peer.measure, args.peer, pods.guest_dir(), count=PEERS, memory_mib=args.memory_mib, settle_s=args.settle
        )
        journal.add(PEER, result)


def run_in_lab(args: argparse.Namespace) -> dict[str, Any]:
    """As `run`, in the lab. Raises LabError."""
    args.hypervisor = "kvmtool"
    kept = in_lab.journal(args.journal, "density")
    expected = [*(plan.name for plan in plans(args)), AROUND, *((OWN, PEER) if args.peer else ())]
    arguments = [f"--{name.replace('_', '-')}={getattr(args, name)}" for name in PASSED_ON]
    arguments += [f"--pods={','.join(map(str, args.pods))}", *(f"--setup={setup}" for setup in args.setup)]
    arguments += [f"--peer={args.peer.resolve()}"] if args.peer else []
    return report(args, in_lab.run("density", arguments, rows=expected, kept=kept, paths=args.path))


def text(row: dict[str, Any]) -> str:
    """One row for people."""
    before, after = row["before"], row.get("ksm")
    kind = "serving" if row["serving"] else "idle"
    setups = ", ".join(name for name in ("huge_pages", "dax") if row[name]) or "small pages"
    line = f"{row['hypervisor']:<8} {row['pods']:>3} {kind:<7} {setups:<18} unique {before['unique']:>7.2f} MiB"
    line += f" beside {before['beside']:>6.2f} host {before['host']:>7.2f} daemon +{row['daemon_mib_per_pod']:.3f}"
    if after:
        line += f" | KSM: unique {after['unique']:>6.2f} after {after['seconds']:.0f} s, ksmd {after['ksmd_s']:.1f} s"
    return line


def report_of(args: argparse.Namespace) -> dict[str, Any]:
    """Read or measured. Raises LabError."""
    if args.source:
        return read(args.source)
    return run_in_lab(args) if args.lab else asyncio.run(run_and_restore(args))


def main() -> int:
    """Print the report; 1 when a pod of it had died, 2 when the lab could not be used."""
    args = parse()
    try:
        result = report_of(args)
    except LabError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    if args.svg:
        density_plots.write(result, args.svg)
    if args.json:
        print(json.dumps(result))
    return 0 if all(row["ready"] == row["pods"] for row in result["rows"]) else 1


if __name__ == "__main__":
    sys.exit(main())
