# SPDX-License-Identifier: Apache-2.0
"""`scripts/soak MINUTES`: a node with real VMs whose daemon is killed again and again, and the losses.

For two thirds of the time processes are killed: the daemon mostly, VMs now and then. For the rest one daemon lives, so
that its growth can be measured. Pods come and go all the time: each container writes numbered lines, which are compared
with its log one by one, and answers execs. In the end every pod is removed, and nothing may be left.
"""

import argparse
import asyncio
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from tests.bench.lib.curves import Curve, curves
from tests.fakes import places
from tests.soak.client import Kubelet
from tests.soak.node import Node
from tests.soak.watch import Sample, growth_mib, watch
from tests.soak.work import Work

WORKERS = 3
KILLING = 2 / 3
"""Part of the time in which somebody kills."""
GUEST = Path(__file__).parents[2] / "build/guest"


async def soak(node: Node, minutes: float, seed: int) -> dict[str, Any]:
    """The report; `samples`, `kills_s` and `wrong` are for people."""
    work, begun_s = Work(node, seed), time.monotonic()
    calm_s, end_s = begun_s + minutes * 60 * KILLING, begun_s + minutes * 60
    node.start()
    workers = [work.live(number, end_s) for number in range(WORKERS)]
    samples, *_ = await asyncio.gather(watch(node, end_s, begun_s), work.kill(calm_s, begun_s), *workers)
    kubelet = Kubelet(node.socket)
    await kubelet.remove_all()
    await kubelet.close()
    code = await asyncio.to_thread(node.stop, signal.SIGTERM)
    count = work.count
    if code:
        count.wrong.append(f"the last daemon ended with {code}")
    left = await asyncio.to_thread(node.left)
    return {
        "pods": count.pods,
        "kills": count.kills,
        "lines_lost": count.lines_lost,
        "leaked": len(left),
        "rss_growth_mib": growth_mib(samples, calm_s - begun_s),
        "execs": count.execs,
        "lines": count.lines,
        "vm_kills": count.vm_kills,
        "ends": count.ends,
        "failed": len(count.wrong),
        "minutes": minutes,
        "seed": seed,
        "wrong": count.wrong + left,
        "kills_s": count.times_s,
        "samples": samples,
    }


def plot(report: dict[str, Any]) -> str:
    """An SVG of the counters."""
    samples: list[Sample] = report["samples"]
    named = {
        "memory of the daemon, MiB": "rss_mib",
        "descriptors of the daemon": "descriptors",
        "files in run_dir and state_dir": "files",
        "addresses that are given": "addresses",
    }
    result = [Curve(label, [(one.at_s, float(getattr(one, name))) for one in samples]) for label, name in named.items()]
    title = f"{report['minutes']:g} minutes: {report['pods']} pods, {report['kills']} kills of the daemon"
    note = f"scripts/soak, {time.strftime('%Y-%m-%d')}"
    return curves(title, result, note=note, marks=report["kills_s"], marked="the daemon or a VM is killed")


def is_good(report: dict[str, Any]) -> bool:
    """Whether nothing was lost, left or refused."""
    return not (report["lines_lost"] or report["leaked"] or report["failed"])


def run(minutes: float, *, seed: int, guest_dir: Path) -> dict[str, Any]:
    """Soak a new node. What went wrong is on standard error, with the end of the daemons' log."""
    with places.short_directory() as root, Node(Path(root), guest_dir) as node:
        report = asyncio.run(soak(node, minutes, seed))
        for sentence in report["wrong"]:
            print(sentence, file=sys.stderr)
        if not is_good(report) and (results := os.environ.get("RESULTS", "build/results")):
            Path(results).mkdir(parents=True, exist_ok=True)
            Path(results, "soak.log").write_bytes((node.root / "serve.log").read_bytes())
    return report


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/soak", description="Kill a node's daemon again and again.")
    parser.add_argument("minutes", type=float)
    parser.add_argument("--json", action="store_true", help="the figures as one JSON object")
    parser.add_argument("--svg", type=Path, metavar="DIR", help="draw soak.svg into DIR")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="of what is random")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that nothing stays behind
    report = run(args.minutes, seed=args.seed, guest_dir=GUEST)
    if args.svg:
        args.svg.mkdir(parents=True, exist_ok=True)
        (args.svg / "soak.svg").write_text(plot(report), encoding="utf-8")
    shown = {key: value for key, value in report.items() if key not in ("wrong", "kills_s", "samples")}
    print(json.dumps(shown) if args.json else "\n".join(f"{key:16} {value}" for key, value in shown.items()))
    return 0 if is_good(report) else 1


if __name__ == "__main__":
    sys.exit(main())
