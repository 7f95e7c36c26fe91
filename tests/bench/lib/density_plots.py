# SPDX-License-Identifier: Apache-2.0
"""The plots of `scripts/bench density`, from its report. Pure but for the files that it writes."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tests.bench.lib import svg
from tests.bench.lib.svg import Bar

NOTE = "What no other process has; scripts/bench density"
PARTS = ("guest", "VMM", "page tables", "daemon")


def write(report: dict[str, Any], directory: Path) -> None:
    """Put `drawn` there."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, text in drawn(report).items():
        (directory / name).write_text(text, encoding="utf-8")


def drawn(report: dict[str, Any]) -> dict[str, str]:
    """density-idle-HYPERVISOR.svg and density-serving-HYPERVISOR.svg, as far as there are such rows."""
    result = {}
    for hypervisor in sorted({row["hypervisor"] for row in report["rows"]}):
        for serving, name in ((False, "idle"), (True, "serving")):
            rows = [row for row in report["rows"] if (row["hypervisor"], row["serving"]) == (hypervisor, serving)]
            if rows:
                title = f"Memory of one {name} pod under {hypervisor}, {rows[0]['memory_mib']} MiB VM"
                once = _once(bar for row in rows for bar in bars(row))
                text = svg.bars(
                    title, "MiB", legend=PARTS, rows=once, note=f"{NOTE}, {report.get('host', {}).get('date', '')}"
                )
                result[f"density-{name}-{hypervisor}.svg"] = text
    return result


def _once(measured: Iterable[Bar]) -> list[Bar]:
    """Rows that differ only in how fast KSM was have one bar without it."""
    by_label: dict[str, Bar] = {}
    for bar in measured:
        by_label.setdefault(bar.label, bar)
    return list(by_label.values())


def bars(row: dict[str, Any]) -> list[Bar]:
    """One without KSM and one with it."""
    choices = [word for word, on in (("huge pages", row["huge_pages"]), ("DAX", row["dax"])) if on]
    result = []
    for key, name in (("before", ""), ("ksm", f"KSM {row['ksm_percent']:g}%")):
        if key in row:
            label = ", ".join(filter(None, ("1 pod" if row["pods"] == 1 else f"{row['pods']} pods", *choices, name)))
            result.append(Bar(label, _parts(row[key], row["daemon_mib_per_pod"])))
    return result


def _parts(measured: dict[str, float], daemon_mib: float) -> tuple[float, ...]:
    return measured["guest"], measured["beside"] + measured["dax"], measured["page_tables"], max(daemon_mib, 0.0)
