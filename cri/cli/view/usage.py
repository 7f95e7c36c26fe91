# SPDX-License-Identifier: Apache-2.0
"""`clearpod stats` and `top`: what pods take, once, or again and again.

`stats` has processor, memory and disk of pods and their containers, as their guests' kernels count them. `top` adds
what the hypervisor takes, as the host sees it. On a terminal it redraws the screen; elsewhere each round is plain
lines. A round that takes long makes the pauses as long, so that the daemon always has half of the time for others.
"""

import argparse
import json
import os
import sys
import time
from typing import Any

from cri.cli import lookup, shown
from cri.cli.daemon import Daemon, connect
from cri.cli.parser import Command, Parser
from cri.store.history import READY
from stage1.errors import BadRequest, NotFound

STATS_EXAMPLES = (
    ("clearpod stats", "all running pods and containers"),
    ("clearpod stats default/web --json", "one pod, for programs"),
)
STATS_HEADER = ("POD", "ID", "CPU", "MEMORY", "USAGE", "DISK", "TASKS")


def add_stats(parser: Parser) -> None:
    """The options of `clearpod stats`."""
    parser.add_argument("pod", metavar="POD", nargs="?", help="show only this pod")
    parser.add_argument("--json", action="store_true", help="one array, for programs")
    parser.take_config()


def stats(args: argparse.Namespace) -> int:
    """Print statistics of containers once. Raises NotFound, BadRequest."""
    with connect(args.config) as daemon:
        chosen = lookup.pod(daemon, args.pod).id if args.pod is not None else ""
        listed = [one for one in pods(daemon) if chosen in ("", one["id"])]
    if args.json:
        shown.write(json.dumps(listed, indent=2))
    else:
        rows = [
            row for one in listed for row in (_stats_row(one, ""), *(_stats_row(c, "  ") for c in one["containers"]))
        ]
        shown.write(shown.table([STATS_HEADER, *rows], shown.width()))
    return 0


def pods(daemon: Daemon) -> list[dict[str, Any]]:
    """All pods with a VM that runs, each with its containers. CPU is in cores; memory is the working set."""
    return [_pod(one) for one in daemon("ListPodSandboxStats").stats]


def _pod(one: Any) -> dict[str, Any]:
    result = _numbers(one.linux) | {"id": one.attributes.id, "name": lookup.title(one.attributes)}
    containers = [_container(each) for each in one.linux.containers]
    return {**result, "tasks": one.linux.process.process_count.value, "containers": containers}


def _container(one: Any) -> dict[str, Any]:
    disk = one.writable_layer.used_bytes.value
    return {**_numbers(one), "id": one.attributes.id, "name": one.attributes.metadata.name, "diskBytes": disk}


def _numbers(one: Any) -> dict[str, Any]:
    return {
        "cpuCores": round(one.cpu.usage_nano_cores.value / 1e9, 4),
        "cpuSeconds": round(one.cpu.usage_core_nano_seconds.value / 1e9, 3),
        "memoryBytes": one.memory.working_set_bytes.value,
        "usageBytes": one.memory.usage_bytes.value,
    }


def _stats_row(one: dict[str, Any], indent: str) -> tuple[str, ...]:
    disk, tasks = one.get("diskBytes"), one.get("tasks")
    return (
        indent + one["name"],
        one["id"][: shown.ID_CHARS],
        f"{one['cpuCores'] * 100:.1f}%",
        shown.size(one["memoryBytes"]),
        shown.size(one["usageBytes"]),
        "" if disk is None else shown.size(disk),
        "" if tasks is None else str(tasks),
    )


TOP_EXAMPLES = (
    ("clearpod top", "all pods, updated every two seconds, until ^C"),
    ("clearpod top --once --json", "the current figures, for programs"),
)
TOP_HEADER = ("POD", "CONTAINERS", "CPU", "GUEST", "VMM", "DAX", "MERGED", "BOOT")
HOME, CLEAR_REST, BOLD, PLAIN = "\x1b[H", "\x1b[J", "\x1b[1m", "\x1b[0m"


def add_top(parser: Parser) -> None:
    """The options of `clearpod top`."""
    parser.add_argument("--once", action="store_true", help="print it once")
    parser.add_argument("--json", action="store_true", help="one object per round, for programs")
    parser.add_argument(
        "--interval", type=float, default=2.0, metavar="SECONDS", help="time between updates (default: 2)"
    )
    parser.take_config()


def top(args: argparse.Namespace) -> int:
    """Print the table until ^C. Raises Unavailable when the daemon ends."""
    if not 0.1 <= args.interval <= 3600:
        raise BadRequest(f"--interval must be from 0.1 to 3600 seconds, but it is {args.interval:g}")
    with connect(args.config) as daemon:
        while True:
            begun = time.monotonic()
            shown.write(drawn(sample(daemon), is_json=args.json, is_once=args.once))
            if args.once:
                return 0
            time.sleep(max(args.interval, time.monotonic() - begun))


def sample(daemon: Daemon) -> dict[str, Any]:
    """All pods with a VM that runs, those first that take the most; and the sums."""
    listed = [whole for one in pods(daemon) if (whole := _with_vm(daemon, one))]
    listed.sort(key=lambda one: (-one["cpuCores"], -one["vmmBytes"]))
    keys = ("cpuCores", "memoryBytes", "vmmBytes", "daxBytes", "mergedBytes")
    sums = {key: round(sum(one[key] for one in listed), 4) for key in keys}
    return {
        "pods": listed,
        "sum": sums | {"pods": len(listed), "containers": sum(len(one["containers"]) for one in listed)},
    }


def _with_vm(daemon: Daemon, one: dict[str, Any]) -> dict[str, Any] | None:
    """Return the pod's row with what its VMM takes on the host; None when the pod was removed meanwhile."""
    try:
        reply = daemon("PodSandboxStatus", pod_sandbox_id=one["id"], verbose=True)
    except NotFound:
        return None
    info = lookup.info(reply)
    vm = info.get("vm", {})
    return {
        **one,
        "vmmBytes": vm.get("pssBytes", 0),
        "daxBytes": vm.get("daxBytes", 0),
        "mergedBytes": vm.get("mergedBytes", 0),
        "bootMs": next((fact["tookMs"] for fact in info.get("history", []) if fact["what"] == READY), 0),
        "held": bool(info.get("why")),
        "suspended": bool(info.get("suspended")),
    }


def drawn(seen: dict[str, Any], *, is_json: bool, is_once: bool) -> str:
    """Return the text of one refresh."""
    if is_json:
        return json.dumps(seen)
    is_screen = sys.stdout.isatty() and not is_once
    lines = text(seen, shown.width()).splitlines()
    if not is_screen:
        return "\n".join(lines) + ("" if is_once else "\n")
    lines = lines[: max(shown.height() - 1, 1)]
    if shown.has_colours() and len(lines) > 1:
        lines[1] = f"{BOLD}{lines[1]}{PLAIN}"
    return HOME + "\n".join(f"{line}\x1b[K" for line in lines) + CLEAR_REST


def text(seen: dict[str, Any], columns: int) -> str:
    """A line with the sums, and the table."""
    total = seen["sum"]
    head = (
        f"{total['pods']} pods, {total['containers']} containers, "
        f"{total['cpuCores']:.2f} of {os.cpu_count() or 1} processors; "
        f"memory: guests {shown.size(total['memoryBytes'])}, VMMs {shown.size(total['vmmBytes'])}, "
        f"DAX {shown.size(total['daxBytes'])}, merged {shown.size(total['mergedBytes'])}"
    )
    table = shown.table([TOP_HEADER, *map(_top_row, seen["pods"])], columns)
    return f"{shown.cut(head, columns) if columns else head}\n{table}"


def _top_row(one: dict[str, Any]) -> tuple[str, ...]:
    return (
        one["name"] + (f" ({lookup.SUSPENDED})" if one["suspended"] else " (held)" if one["held"] else ""),
        str(len(one["containers"])),
        f"{one['cpuCores'] * 100:.1f}%",
        *(shown.size(one[key]) for key in ("memoryBytes", "vmmBytes", "daxBytes", "mergedBytes")),
        shown.took(one["bootMs"]) if one["bootMs"] else "",
    )


COMMANDS = {"stats": Command(STATS_EXAMPLES, add_stats, stats), "top": Command(TOP_EXAMPLES, add_top, top)}
