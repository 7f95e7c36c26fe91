# SPDX-License-Identifier: Apache-2.0
"""`clearpod top`: what each pod takes, again and again: processor, and memory as its guest, its hypervisor and the host
see it.

On a terminal the screen is redrawn; elsewhere each round is plain lines. A round that takes long makes the pauses as
long, so that the daemon always has half of the time for others.
"""

import argparse
import json
import os
import sys
import time
from typing import Any

from cri.cli import lookup, shown, stats
from cri.cli.daemon import Daemon, connect
from cri.cli.parser import Parser
from cri.store.history import READY
from stage1.errors import BadRequest, NotFound

EXAMPLES = (
    ("clearpod top", "all pods, updated every two seconds, until ^C"),
    ("clearpod top --once --json", "the current figures, for programs"),
)
HEADER = ("POD", "CONTAINERS", "CPU", "GUEST", "VMM", "DAX", "MERGED", "BOOT")
HOME, CLEAR_REST, BOLD, PLAIN = "\x1b[H", "\x1b[J", "\x1b[1m", "\x1b[0m"


def add_arguments(parser: Parser) -> None:
    """The options of `clearpod top`."""
    parser.add_argument("--once", action="store_true", help="print it once")
    parser.add_argument("--json", action="store_true", help="one object per round, for programs")
    parser.add_argument(
        "--interval", type=float, default=2.0, metavar="SECONDS", help="time between updates (default: 2)"
    )
    parser.take_config()


def main(args: argparse.Namespace) -> int:
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
    pods = [whole for one in stats.pods(daemon) if (whole := _with_vm(daemon, one))]
    pods.sort(key=lambda one: (-one["cpuCores"], -one["vmmBytes"]))
    keys = ("cpuCores", "memoryBytes", "vmmBytes", "daxBytes", "mergedBytes")
    sums = {key: round(sum(one[key] for one in pods), 4) for key in keys}
    return {"pods": pods, "sum": sums | {"pods": len(pods), "containers": sum(len(one["containers"]) for one in pods)}}


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
    table = shown.table([HEADER, *map(_row, seen["pods"])], columns)
    return f"{shown.cut(head, columns) if columns else head}\n{table}"


def _row(one: dict[str, Any]) -> tuple[str, ...]:
    return (
        one["name"] + (f" ({lookup.SUSPENDED})" if one["suspended"] else " (held)" if one["held"] else ""),
        str(len(one["containers"])),
        f"{one['cpuCores'] * 100:.1f}%",
        *(shown.size(one[key]) for key in ("memoryBytes", "vmmBytes", "daxBytes", "mergedBytes")),
        shown.took(one["bootMs"]) if one["bootMs"] else "",
    )
