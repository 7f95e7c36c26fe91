# SPDX-License-Identifier: Apache-2.0
"""Plots as SVG text: horizontal bars made of parts. For benchmarks; pure, standard library only.

The text is the same for the same numbers, so that a committed plot changes only when they do. Colours and fonts are set
in the file itself: a viewer needs nothing else, and light and dark pages both show it on white.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple
from xml.sax.saxutils import escape

COLOURS = ("#4e79a7", "#f28e2b", "#59a14f", "#e15759", "#b07aa1", "#76b7b2", "#edc948", "#9c755f")
WIDTH, MARGIN, BAR, STEP, HEAD, FOOT = 860, 20, 22, 36, 84, 76
CHARACTER, LABELS = 7.5, 64
"""Width of a character of the labels, at most; room for the figure at a bar's end."""
_TICKS = 6


class Bar(NamedTuple):
    """One bar; `parts` are as many as the legend has names, in its order, none of them negative."""

    label: str
    parts: Sequence[float]


def bars(title: str, unit: str, *, legend: Sequence[str], rows: Sequence[Bar], note: str) -> str:
    """The whole file; `note` has the conditions of the measurement."""
    for row in rows:
        if len(row.parts) != len(legend) or min(row.parts, default=0) < 0:
            raise ValueError(f"the bar {row.label!r} needs {len(legend)} parts of at least 0, and has {row.parts}")
    most = max((sum(row.parts) for row in rows), default=0) or 1
    left = MARGIN + 8 + CHARACTER * max((len(row.label) for row in rows), default=0)
    scale = (WIDTH - left - MARGIN - LABELS) / most
    height = HEAD + STEP * len(rows) + FOOT
    body = [
        _text(MARGIN, 26, title, "font-size:16px;font-weight:bold"),
        *_legend(legend),
        *_axis(most, scale, left=left, height=height),
        _text(left, height - FOOT + 38, unit),
        _text(MARGIN, height - 14, note, "fill:#555"),
        *(line for number, row in enumerate(rows) for line in _bar(row, HEAD + STEP * number, scale=scale, left=left)),
    ]
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}" '
        'font-family="sans-serif" font-size="12">'
    )
    return "\n".join([head, f'<rect width="{WIDTH}" height="{height}" fill="#fff"/>', *body, "</svg>"]) + "\n"


def ticks(most: float) -> list[float]:
    """Round numbers from 0 to at most `most`, some six of them."""
    raw = most / _TICKS
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw)
    return [step * number for number in range(int(most / step) + 1)]


def _text(x: float, y: float, text: str, style: str = "", anchor: str = "start") -> str:
    extra = f' style="{style}"' if style else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{extra}>{escape(text)}</text>'


def _legend(names: Sequence[str]) -> list[str]:
    lines, x = [], float(MARGIN)
    for number, name in enumerate(names):
        colour = COLOURS[number % len(COLOURS)]
        lines.append(f'<rect x="{x:.1f}" y="42" width="12" height="12" fill="{colour}"/>')
        lines.append(_text(x + 17, 52, name))
        x += 17 + CHARACTER * len(name) + 16
    return lines


def _axis(most: float, scale: float, *, left: float, height: int) -> list[str]:
    lines, bottom = [], height - FOOT + 4
    for value in ticks(most):
        x = left + value * scale
        lines.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{HEAD - 8}" y2="{bottom}" stroke="#ddd"/>')
        lines.append(_text(x, bottom + 16, f"{value:g}", anchor="middle"))
    return lines


def _bar(row: Bar, top: float, *, scale: float, left: float) -> list[str]:
    lines, x = [_text(left - 8, top + 15, row.label, anchor="end")], left
    for number, part in enumerate(row.parts):
        colour, width = COLOURS[number % len(COLOURS)], part * scale
        lines.append(f'<rect x="{x:.1f}" y="{top}" width="{width:.1f}" height="{BAR}" fill="{colour}"/>')
        x += width
    return [*lines, _text(x + 6, top + 15, f"{sum(row.parts):.1f}")]
