# SPDX-License-Identifier: Apache-2.0
"""What the outer machine wrote, as numbers: when a guest came how far, and what made it leave to its host. Pure.

Called by report.py. All times are milliseconds of the outer machine's time stamp counter, one instruction a nanosecond,
from the exec of the VMM. A guest's own counter is the outer one plus an offset that KVM tells.
"""

import itertools
import re
from collections import Counter
from typing import NamedTuple

PHASES = ("VMM", "firmware, loader", "unpacking", "kernel", "PID 1")
_RUN = re.compile(r"^bench\.run (\S+)\.(\w+) (\d+) (\d+) (-?\d+) (\d+)\s*$", re.MULTILINE)
_MARK = re.compile(r"^bench\.mark (\S+)\.(\w+) (\w+) (\d+) (\d+)\s*$", re.MULTILINE)
_FAILED = re.compile(r"^bench\.failed (\S+) (\d+)\s*$(.*?)(?=^bench\.|\Z)", re.MULTILINE | re.DOTALL)
_EXIT = re.compile(r"(\d+): kvm_exit: .*?reason (?:EXIT_)?(\S+) rip (0x[0-9a-f]+) info1 (0x[0-9a-f]+)")
_KERNEL = 0xFFFF_FFFF_8000_0000
"""A kernel's own code lies above, once it has its own page tables."""
_PROTECTED = 1 << 20
"""Nothing but firmware runs below."""
_FW_CFG = range(0x510, 0x51C)
"""Ports by which QEMU's loaders fetch the kernel."""


class Run(NamedTuple):
    """One start: `exec_tsc` of the outer counter, `offset` of the guest's; milliseconds from exec to the marks."""

    variant: str
    number: str
    exec_tsc: int
    exits: int
    init_ms: float
    ready_ms: float
    seen_ms: float
    """When the line of the mark had come out of the VMM."""


class Exit(NamedTuple):
    """A guest left to its host, with the instruction at `rip`. `port` is that of an I/O instruction, else 0."""

    at_ms: float
    reason: str
    rip: int
    port: int


def runs(console: str) -> list[Run]:
    """All starts that reached `ready`."""
    marks = {(name, number, mark): int(tsc) for name, number, mark, _, tsc in _MARK.findall(console)}
    result = []
    for name, number, began, seen, offset, exits in _RUN.findall(console):
        zero = int(began) + int(offset)
        init, ready = (marks.get((name, number, mark), zero) - zero for mark in ("pid1", "ready"))
        seen_ms = (int(seen) - int(began)) / 1e6
        result.append(Run(name, number, int(began), int(exits), init / 1e6, ready / 1e6, seen_ms))
    return result


def failures(console: str) -> list[str]:
    """A text for each start that did not reach it."""
    return [f"{name} ended with status {code}:\n{text.strip()}" for name, code, text in _FAILED.findall(console)]


def exits(traces: str, run: Run) -> list[Exit]:
    """The exits of a traced start, in order."""
    _, _, text = traces.partition(f"bench.trace {run.variant}.{run.number}\n")
    result = []
    for at, reason, rip, info in _EXIT.findall(text.partition("bench.trace ")[0]):
        port = int(info, 16) >> 16 if reason == "io" else 0
        result.append(Exit((int(at) - run.exec_tsc) / 1e6, reason, int(rip, 16), port))
    return result


def phases(events: list[Exit], run: Run) -> list[float]:
    """Milliseconds of each of PHASES; empty when the trace does not show them."""
    kernel = next((event.at_ms for event in events if event.rip >= _KERNEL), None)
    if kernel is None:
        return []
    before = [event for event in events if event.at_ms < kernel]
    loads = [event.at_ms for event in before if event.port in _FW_CFG]
    above = (event.at_ms for event in before if event.rip >= _PROTECTED)
    loaded = loads[-1] if loads else next(above, kernel)
    borders = [0, events[0].at_ms, loaded, kernel, run.init_ms, run.ready_ms]
    return [round(after - before, 3) for before, after in itertools.pairwise(borders)]


def exit_counts(events: list[Exit]) -> dict[str, int]:
    """How often the guest left to its host, by reason; I/O by what it was for."""
    return dict(Counter(_name(event) for event in events).most_common())


def _name(event: Exit) -> str:
    if event.reason != "io":
        return event.reason
    if 0xCF8 <= event.port <= 0xCFF:
        return "io: PCI"
    if 0x3F8 <= event.port <= 0x3FF:
        return "io: serial port"
    return "io: firmware" if event.port in _FW_CFG else "io: other"
