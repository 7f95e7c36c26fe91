# SPDX-License-Identifier: Apache-2.0
"""`scripts/bench network`: what a pod's network costs beside the plugins' own time, with Debian's plugins.

Times are those of attach and detach less what the plugins took; `processes` are those started beside the plugins.
Then 20 pods at once: how far the slowest are from the middle. All in a netns of its own.
`--throughput` adds what real VMs move beside containers, `--pods N` runs N real VMs one after the other, `--parallel N`
as many at once; `--forwarding` adds what the limit of new neighbours costs each forwarded packet; `--rounds 0` leaves
the first part out.
"""

import sys
from pathlib import Path

sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != Path(__file__).parent]  # hides `cri`

import argparse  # noqa: E402
import json  # noqa: E402
import os  # noqa: E402
import resource  # noqa: E402
import statistics  # noqa: E402
import tempfile  # noqa: E402
import threading  # noqa: E402
import time  # noqa: E402
from collections.abc import Callable  # noqa: E402
from concurrent.futures import ThreadPoolExecutor  # noqa: E402
from typing import Any, NamedTuple  # noqa: E402

from cri.node import NETWORKS_AT_ONCE  # noqa: E402
from stage1.linux import process  # noqa: E402
from stage1.net import attach  # noqa: E402
from stage1.pod.model import Pod, Port  # noqa: E402
from tests.bench import network_vms  # noqa: E402
from tests.bench.lib import forwarding  # noqa: E402
from tests.fakes.outer_net import OuterNet, outer_net  # noqa: E402

AT_ONCE = 20
BUDGET_MS, BUDGET_PROCESSES, BUDGET_SPREAD = 15, 0, 3


class Sample(NamedTuple):
    """One attach or detach: all of it, what the plugins took, and how many processes were not plugins.

    `cpu_ms` is what it took of the processor, without the plugins: what a busy machine hardly changes.
    """

    all_ms: float
    plugins_ms: float
    processes: int
    cpu_ms: float


class Meter:
    """Stands in `process.run`'s place; plugins are told from tools by their absolute path."""

    def __init__(self) -> None:
        self._run = process.run
        self._own = threading.local()
        process.run = self.run  # type: ignore[assignment]

    def run(self, argv: list[str], **more: Any) -> process.Result:
        """Run it, and count it for the thread."""
        begun, children = time.perf_counter(), _children_ms()
        try:
            return self._run(argv, **more)
        finally:
            if argv[0].startswith("/"):
                self._own.plugins_ms += (time.perf_counter() - begun) * 1000
                self._own.plugins_cpu_ms += _children_ms() - children
            else:
                self._own.processes += 1

    def measure(self, what: Callable[[], object]) -> Sample:
        """Do it and say what it cost."""
        own = self._own
        own.plugins_ms, own.plugins_cpu_ms, own.processes = 0.0, 0.0, 0
        begun, cpu = time.perf_counter(), time.process_time() * 1000 + _children_ms()
        what()
        cpu_ms = time.process_time() * 1000 + _children_ms() - cpu - own.plugins_cpu_ms
        return Sample((time.perf_counter() - begun) * 1000, own.plugins_ms, own.processes, cpu_ms)

    def close(self) -> None:
        """Put the real one back."""
        process.run = self._run


def _children_ms() -> float:
    """Processor time of the children that have ended; right for one thread at a time."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (used.ru_utime + used.ru_stime) * 1000


def _pod(net: OuterNet, meter: Meter, number: int) -> tuple[Sample, Sample]:
    pod = Pod(os.urandom(32).hex(), f"pod-{number}", ports=(Port(80, 20000 + number),))
    directory = f"{net.root}/{pod.id}"
    os.mkdir(directory)
    up = meter.measure(lambda: attach.attach(pod, directory, settings=net.settings))
    return up, meter.measure(lambda: attach.detach(directory))


def _at_once(net: OuterNet, meter: Meter) -> list[float]:
    """Milliseconds from the common beginning to each pod's set-up, in a pool like the daemon's."""
    begun = time.perf_counter()

    def one(number: int) -> float:
        _, teardown = _pod(net, meter, number)
        return (time.perf_counter() - begun) * 1000 - teardown.all_ms

    with ThreadPoolExecutor(NETWORKS_AT_ONCE) as pool:
        return sorted(pool.map(one, range(AT_ONCE)))


def measure(rounds: int) -> dict[str, Any]:
    """The whole report, from `rounds` pods one after the other and 20 at once."""
    with tempfile.TemporaryDirectory(prefix="cpb") as place, outer_net(Path(place, "host")) as net:
        meter = Meter()
        try:
            _pod(net, meter, 0)
            before = net.state()
            samples = [_pod(net, meter, number) for number in range(rounds)]
            together = _at_once(net, meter)
            leaked = net.state() != before
        finally:
            meter.close()
    ups, downs = ([pair[direction] for pair in samples] for direction in (0, 1))
    return {
        "pods": rounds,
        "setup_ms": _of(ups),
        "teardown_ms": _of(downs),
        "processes": max(sample.processes for sample in (*ups, *downs)),
        "plugins_ms": round(statistics.median(sample.plugins_ms for sample in ups), 1),
        "at_once": {
            "pods": len(together),
            "p50_ms": round(statistics.median(together), 1),
            "p95_ms": round(together[int(len(together) * 0.95)], 1),
        },
        "leaked": leaked,
        "budget": {"ms": BUDGET_MS, "processes": BUDGET_PROCESSES, "p95_to_p50": BUDGET_SPREAD},
    }


def _of(samples: list[Sample]) -> dict[str, float]:
    own = sorted(sample.all_ms - sample.plugins_ms for sample in samples)
    return {
        "median": round(statistics.median(own), 1),
        "p95": round(own[int(len(own) * 0.95)], 1),
        "cpu_median": round(statistics.median(sample.cpu_ms for sample in samples), 1),
        "processes": max(sample.processes for sample in samples),
    }


def main() -> int:
    """Print the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.add_argument("--rounds", type=int, default=20, help="pods one after the other")
    parser.add_argument("--throughput", action="store_true", help="also what real VMs move, beside containers")
    parser.add_argument("--pods", type=int, default=0, help="also so many real VMs, one after the other")
    parser.add_argument("--parallel", type=int, default=0, help="also so many real VMs at once")
    parser.add_argument("--forwarding", action="store_true", help="also what the limit of new neighbours costs")
    args = parser.parse_args()
    report = measure(args.rounds) if args.rounds else {}
    if args.throughput:
        report["throughput"] = network_vms.throughput()
    if args.pods:
        report["in_sequence"] = network_vms.in_sequence(args.pods)
    if args.parallel:
        report["in_parallel"] = network_vms.in_parallel(args.parallel)
    if args.forwarding:
        report["forwarding"] = forwarding.measure()
    lines = [f"{key:12} {value}" for key, value in report.items()]
    print(json.dumps(report, indent=1) if args.json else "\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
