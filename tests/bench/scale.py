# SPDX-License-Identifier: Apache-2.0
"""`scripts/bench scale`: from the report of `scripts/bench density` to a thousand pods and ten thousand.

    scripts/bench scale [--from FILE] [--write]

The report is tests/bench/density.json unless another is given; `--write` puts the tables into docs/admin/capacity.md,
between its two marks. A test holds the document to the report.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != Path(__file__).parent]

from tests.bench.lib import scale_model  # noqa: E402
from tests.bench.lib.scale_model import JAIL_MOUNTS, MACHINES, MIB, Cost  # noqa: E402

REPORT, DOCUMENT = ROOT / "tests/bench/density.json", ROOT / "docs/admin/capacity.md"
BEGIN, END = "<!-- made by scripts/bench scale --write -->\n", "<!-- end -->"


def text(report: dict[str, Any]) -> str:
    """What stands between the marks."""
    merged, plain = scale_model.cost(report), scale_model.cost(report, with_ksm=False)
    row = scale_model.row(report)
    how = f"Measured with {row['pods']} pods of {row['memory_mib']} MiB under {row['hypervisor']} ({row['accel']})."
    parts = [how, _costs(merged, plain)]
    for machine in MACHINES:
        parts += [scale_model.table(merged, machine), scale_model.verdict(merged, machine)]
    parts.append("Without KSM: " + " ".join(scale_model.verdict(plain, machine) for machine in MACHINES))
    return "\n\n".join(parts) + "\n\n"


def _costs(merged: Cost, plain: Cost) -> str:
    rows = [
        ("memory that no other pod shares, KSM on", f"{merged.unique / MIB:.1f} MiB"),
        ("the same, KSM off", f"{plain.unique / MIB:.1f} MiB"),
        ("page tables", f"{merged.page_tables / MIB:.2f} MiB"),
        ("the daemon's growth", f"{merged.daemon / MIB:.2f} MiB"),
        ("files in `run_dir`", f"{merged.run_dir / 1024:.0f} KiB"),
        ("network namespace, veth and tap", f"{merged.network / 1024:.0f} KiB"),
        (
            "mounts in the host's namespace, and in the VMM's",
            f"{merged.mounts:.1f} and {JAIL_MOUNTS}, of {merged.mount_bytes:.0f} bytes",
        ),
        ("descriptors of the daemon", f"{merged.descriptors:.1f}"),
        ("threads of the VMM", f"{merged.threads:.0f}"),
    ]
    return "\n".join(
        ["| of one idle pod | measured |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)]
    )


def replaced(document: str, report: dict[str, Any]) -> str:
    """The document with the text of this report."""
    head, _, rest = document.partition(BEGIN)
    return head + BEGIN + "\n" + text(report) + END + rest.partition(END)[2]


def main() -> int:
    """Print the tables, or write them."""
    parser = argparse.ArgumentParser(prog="scripts/bench scale", description=__doc__)
    parser.add_argument("--from", dest="source", type=Path, default=REPORT, metavar="FILE")
    parser.add_argument("--write", action="store_true", help="put them into docs/admin/capacity.md")
    args = parser.parse_args()
    report = json.loads(args.source.read_text(encoding="utf-8"))
    if args.write:
        DOCUMENT.write_text(replaced(DOCUMENT.read_text(encoding="utf-8"), report), encoding="utf-8")
    else:
        print(text(report), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
