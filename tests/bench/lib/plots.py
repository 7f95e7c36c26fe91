# SPDX-License-Identifier: Apache-2.0
"""`python -m tests.bench.lib.plots`: draws docs/plots anew from the numbers in plots.json. A test holds both together.

Who measures anew puts the new numbers there. The density plots of kvmtool are not here: `scripts/bench density --from`
draws those from density.json.
"""

import json
from pathlib import Path

from tests.bench.lib import curves, svg

NUMBERS = Path(__file__).parents[1] / "plots.json"
PLACE = Path(__file__).parents[3] / "docs/plots"


def drawn() -> dict[str, str]:
    """Each plot's file and its text."""
    numbers = json.loads(NUMBERS.read_text(encoding="utf-8"))
    result = {}
    for name, one in numbers["bars"].items():
        rows = [svg.Bar(label, parts) for label, parts in one["rows"]]
        result[f"{name}.svg"] = svg.bars(one["title"], one["unit"], legend=one["legend"], rows=rows, note=one["note"])
    for name, one in numbers["curves"].items():
        drawn = [curves.Curve(label, [(at, value) for at, value in points]) for label, points in one["curves"]]
        text = curves.curves(one["title"], drawn, note=one["note"], marks=one["marks"], marked=one["marked"])
        result[f"{name}.svg"] = text
    return result


if __name__ == "__main__":
    for name, text in drawn().items():
        (PLACE / name).write_text(text, encoding="utf-8")
