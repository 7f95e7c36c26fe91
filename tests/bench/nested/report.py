# SPDX-License-Identifier: Apache-2.0
"""Figures, tables and plots of the nested benchmark from what its machine wrote. Called by command.py; pure."""

import statistics
from typing import Any

from tests.bench.lib import svg
from tests.bench.nested import trace

BUDGET_MS = 100
OF_MICROVM, OF_Q35 = 1 / 2, 1 / 25
UNIT = "milliseconds of the outer machine's time, one instruction a nanosecond"
READY = "_exec_to_ready_ms"


def figures(console: str, traces: str) -> dict[str, Any]:
    """All that is reported, by name."""
    everything = trace.runs(console)
    result: dict[str, Any] = {"unit": UNIT}
    for variant in dict.fromkeys(run.variant for run in everything):
        mine = [run for run in everything if run.variant == variant]
        result |= _columns(variant, [run for run in mine if run.number.isdigit()])
        result[f"{variant}_starts"] = sum(run.number.isdigit() for run in mine)
        for run in mine:
            if run.number == "trace":
                match = trace.exits(traces, run)
                result[f"{variant}_phases_ms"] = dict(zip(trace.PHASES, trace.phases(match, run), strict=False))
                result[f"{variant}_exits_by_reason"] = trace.exit_counts(match)
    return result | {"failures": trace.failures(console)} | ratios(result)


def _columns(variant: str, runs: list[trace.Run]) -> dict[str, float]:
    values: dict[str, list[float]] = {
        "exec_to_ready_ms": [run.ready_ms for run in runs],
        "exec_to_init_ms": [run.init_ms for run in runs],
        "init_to_ready_ms": [run.ready_ms - run.init_ms for run in runs],
        "exec_to_seen_ms": [run.seen_ms for run in runs],
        "exits": [run.exits for run in runs],
    }
    result = {}
    for name, column in values.items():
        if column:
            result[f"{variant}_{name}"] = round(statistics.median(column), 3)
            result[f"{variant}_{name}_min"] = round(min(column), 3)
            result[f"{variant}_{name}_max"] = round(max(column), 3)
    return result


def ratios(result: dict[str, Any]) -> dict[str, float]:
    """How many times longer the others take than kvmtool, as far as both were measured."""
    ours = result.get(f"lkvm{READY}")
    names = ("lkvm_window", "lkvm_plain", "lkvm_systemd", "microvm", "q35_debian")
    others = {name: result.get(f"{name}{READY}") for name in names}
    return {f"{name}_by_lkvm": round(value / ours, 2) for name, value in others.items() if ours and value}


def lacking(result: dict[str, Any], expected: dict[str, int]) -> list[str]:
    """A sentence for each kind of `wanted` that came up less often than that."""
    match = {name: result.get(f"{name}_starts", 0) for name in expected}
    return [f"{name} came up {match[name]} times of {count}" for name, count in expected.items() if match[name] < count]


def broken(result: dict[str, Any]) -> list[str]:
    """A sentence for each promise that is not kept; what was not measured is none."""
    ours = result.get(f"lkvm{READY}")
    if ours is None:
        return []
    match = [] if ours <= BUDGET_MS else [f"lkvm exec to ready is {ours} ms, promised are {BUDGET_MS}"]
    for name, share in (("microvm", OF_MICROVM), ("q35_debian", OF_Q35)):
        other = result.get(f"{name}{READY}")
        if other and ours > other * share:
            match.append(f"lkvm exec to ready is {ours} ms, more than 1/{1 / share:g} of the {other} ms of {name}")
    return match


def lines(result: dict[str, Any], titles: dict[str, str]) -> list[str]:
    """A table for people."""
    shown = [f"{result['unit']}; median (least to most) of {result['repeat']}"]
    for name, title in titles.items():
        if (value := result.get(f"{name}{READY}")) is not None:
            low, high = result[f"{name}{READY}_min"], result[f"{name}{READY}_max"]
            times = result.get(f"{name}_by_lkvm")
            times_text = f"{times:6.2f} times kvmtool" if times else ""
            exits = int(result[f"{name}_exits"])
            shown.append(f"{title:48} {value:9.2f} ({low:.2f} to {high:.2f}) {exits:6} exits {times_text}")
    for name, title in titles.items():
        phases = result.get(f"{name}_phases_ms") or {}
        if phases:
            shown.append(f"{title}: " + ", ".join(f"{phase} {ms:.1f}" for phase, ms in phases.items()))
    return shown + [f"BROKEN: {line}" for line in broken(result)] + result["failures"] + result["lacking"]


TRACED = "One start of each with a trace, some 3 percent longer than without; scripts/bench boot --lab"


def plot(result: dict[str, Any], titles: dict[str, str], *, names: list[str], date: str) -> str:
    """The phases of these variants as bars, SVG; those without a trace are left out."""
    rows = [
        svg.Bar(titles[name], tuple(result[f"{name}_phases_ms"].values()))
        for name in names
        if result.get(f"{name}_phases_ms")
    ]
    title = "From the exec of the VMM until the guest is ready"
    return svg.bars(title, "virtual ms", legend=trace.PHASES, rows=rows, note=f"{TRACED}, {date}")
