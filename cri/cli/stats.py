# SPDX-License-Identifier: Apache-2.0
"""`clearpod stats`: processor, memory and disk of pods and their containers, as their guests' kernels count them."""

import argparse
import json
from typing import Any

from cri.cli import lookup, shown
from cri.cli.daemon import Daemon, connect
from cri.cli.parser import Parser

EXAMPLES = (
    ("clearpod stats", "all running pods and containers"),
    ("clearpod stats default/web --json", "one pod, for programs"),
)
HEADER = ("POD", "ID", "CPU", "MEMORY", "USAGE", "DISK", "TASKS")


def add_arguments(parser: Parser) -> None:
    """The options of `clearpod stats`."""
    parser.add_argument("pod", metavar="POD", nargs="?", help="show only this pod")
    parser.add_argument("--json", action="store_true", help="one array, for programs")
    parser.take_config()


def main(args: argparse.Namespace) -> int:
    """Print statistics of containers once. Raises NotFound, BadRequest."""
    with connect(args.config) as daemon:
        chosen = lookup.pod(daemon, args.pod).id if args.pod is not None else ""
        listed = [one for one in pods(daemon) if chosen in ("", one["id"])]
    if args.json:
        shown.write(json.dumps(listed, indent=2))
    else:
        rows = [row for one in listed for row in (_row(one, ""), *(_row(c, "  ") for c in one["containers"]))]
        shown.write(shown.table([HEADER, *rows], shown.width()))
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


def _row(one: dict[str, Any], indent: str) -> tuple[str, ...]:
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
