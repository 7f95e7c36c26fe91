# SPDX-License-Identifier: Apache-2.0
"""`clearpod ksm`: what the host saves by merging equal pages, what that costs, and who has set it so.

Reads the kernel's files and the daemon's record; needs no daemon and changes nothing. docs/admin/capacity.md explains
it.
"""

import argparse
import json
import os
import time
from typing import Any, NamedTuple

from cri import config as configuration
from cri.cli.parser import Command, Parser
from cri.memory import record as records
from cri.memory.record import Record
from stage1 import engine
from stage1.errors import NotFound, PodError
from stage1.linux import ksm
from stage1.linux.ksm import PAGE_BYTES, RUN, UNMERGE, Counters, Ksm, Merged, Settings

EXAMPLES = (
    ("clearpod ksm", "the current savings, and each pod's merged memory"),
    ("clearpod ksm --watch 5", "changes, every five seconds"),
)
MIB = 1 << 20
STATES = {0: "stopped", RUN: "running", UNMERGE: "stopped and undone"}


class Observation(NamedTuple):
    """All that is shown. `thread_s` is the processor time of ksmd so far; `pods` has what each has merged."""

    at_s: float
    settings: Settings
    counters: Counters
    thread_s: float
    record: Record | None
    pods: dict[str, Merged]


def add_arguments(parser: Parser) -> None:
    """The options of `clearpod ksm`."""
    parser.add_argument("--json", action="store_true", help="print one object; with --watch, one per line")
    parser.add_argument("--watch", type=float, metavar="SECONDS", help="print a line every SECONDS, until ^C")
    parser.take_config()
    parser.add_argument("--directory", default=ksm.PATH, help=argparse.SUPPRESS)


def main(args: argparse.Namespace) -> int:
    """Print it once, or again and again. Raises NotFound where the kernel has no KSM."""
    directory = Ksm(args.directory)
    if not os.path.exists(f"{directory.path}/run"):
        raise NotFound(directory.lacks())
    run_dir, thread = configuration.load(args.config).run_dir, ksm.find_thread()
    before = observe(directory, run_dir, thread=thread)
    if args.watch is None:
        print(json.dumps(as_json(before)) if args.json else text(before))
        return 0
    while True:
        time.sleep(max(args.watch, 0.1))
        now = observe(directory, run_dir, thread=thread)
        print(json.dumps(as_json(now)) if args.json else line(before, now), flush=True)
        before = now


def observe(directory: Ksm, run_dir: str, *, thread: int) -> Observation:
    """Measure KSM's settings, counters and profit now."""
    return Observation(
        time.monotonic(),
        directory.settings(),
        directory.counters(),
        ksm.thread_cpu_s(thread),
        records.read(records.path(run_dir)),
        _pods(run_dir),
    )


def _pods(run_dir: str) -> dict[str, Merged]:
    merged = {}
    for place in sorted(_entries(f"{run_dir}/pods")):
        try:
            vm = engine.find_vm(f"{run_dir}/pods/{place}")
        except (PodError, OSError, ValueError):
            continue  # it goes away at this moment
        if vm is not None:
            merged[place] = ksm.merged(vm.pid)
    return merged


def _entries(path: str) -> list[str]:
    try:
        return os.listdir(path)
    except FileNotFoundError:
        return []


def text(now: Observation) -> str:
    """A few lines, and one for each pod."""
    counters, set_to = now.counters, now.settings
    pace = f"{set_to.pages_to_scan} pages each {set_to.sleep_millisecs} ms" if set_to.run == RUN else ""
    zeros = f", {_mib(counters.ksm_zero_pages)} MiB of it zeros" if counters.ksm_zero_pages > 0 else ""
    net = f"; less what the kernel needs for it: {counters.general_profit / MIB:.1f}" if profit_known(now) else ""
    lines = [
        f"state   {STATES.get(set_to.run, str(set_to.run))}, {who(now)}" + (f"; {pace}" if pace else ""),
        f"saved   {_mib(counters.saved)} MiB{zeros}{net}",
        f"left    {_mib(counters.pages_unshared)} MiB have no equal, {_mib(counters.pages_volatile)} MiB keep changing",
        f"cost    {now.thread_s:.1f} s of processor time since boot, {counters.full_scans} passes over all memory",
    ]
    lines += [f"pod     {pod[:13]}  {_mib(one.pages + one.zero_pages)} MiB merged" for pod, one in now.pods.items()]
    return "\n".join(lines)


def who(now: Observation) -> str:
    """The owner of KSM's settings, for people."""
    if now.record is None:
        return "by another program than clearpod" if now.settings.run == RUN else "as clearpod has found it"
    if not now.record.explains(now.settings):
        return "by another program, after clearpod"
    if not os.path.exists(f"/proc/{now.record.daemon}"):
        return "by a clearpod daemon that was killed; the next one takes over or gives back"
    return f"by clearpod's daemon, level {now.record.level}"


def profit_known(now: Observation) -> bool:
    """Whether this kernel reports KSM's profit."""
    return now.counters.general_profit != -1


def line(before: Observation, now: Observation) -> str:
    """Return one line with the changes since the last measurement."""
    took_s = max(now.at_s - before.at_s, 0.001)
    cpu = 100 * (now.thread_s - before.thread_s) / took_s
    new = now.counters.saved - before.counters.saved
    level = now.record.level if now.record else "-"
    return (
        f"{level:<8} saved {_mib(now.counters.saved):>8} MiB ({_mib(new):+.1f})  ksmd {cpu:5.1f} %  "
        f"{now.settings.pages_to_scan} pages each {now.settings.sleep_millisecs} ms  passes {now.counters.full_scans}"
    )


def as_json(now: Observation) -> dict[str, Any]:
    """Return a measurement as an object for --json; sizes in bytes."""
    return {
        "settings": now.settings._asdict(),
        "counters": now.counters._asdict(),
        "saved_bytes": now.counters.saved * PAGE_BYTES,
        "thread_s": now.thread_s,
        "set_by": who(now),
        "level": now.record.level if now.record else "",
        "pods": {pod: (one.pages + one.zero_pages) * PAGE_BYTES for pod, one in now.pods.items()},
    }


def _mib(pages: int) -> float:
    return round(pages * PAGE_BYTES / MIB, 1)


COMMANDS = {"ksm": Command(EXAMPLES, add_arguments, main)}
