# SPDX-License-Identifier: Apache-2.0
"""Plots as SVG text: some curves over the same time, one below the other, each with its own scale. Pure, as svg.py."""

from collections.abc import Sequence
from typing import NamedTuple
from xml.sax.saxutils import escape

from tests.bench.lib.svg import COLOURS, MARGIN, WIDTH, ticks

LEFT, PANEL, GAP, HEAD, FOOT = 70, 90, 34, 76, 60
_MOST_POINTS = 300
"""Of a curve: a plot is to be read, and kept."""


class Curve(NamedTuple):
    """`points` are (seconds, value), in order, no value negative."""

    label: str
    points: Sequence[tuple[float, float]]


def curves(title: str, result: Sequence[Curve], *, note: str, marks: Sequence[float] = (), marked: str = "") -> str:
    """The whole file; `note` says how and when it was measured. At the seconds of `marks` there are thin lines, which
    the legend says are what is `marked`.
    """
    end_s = max((at for curve in result for at, _ in curve.points), default=0) or 1
    scale = (WIDTH - LEFT - MARGIN) / end_s
    height = HEAD + (PANEL + GAP) * len(result) + FOOT
    body = [_text(MARGIN, 26, title, "font-size:16px;font-weight:bold")]
    if marks:
        body.append(_text(MARGIN, 44, f"thin lines: {marked}", "fill:#555"))
    for number, curve in enumerate(result):
        top = HEAD + (PANEL + GAP) * number
        body += [_mark(at, scale, top=top) for at in marks]
        body += _panel(curve, scale, top=top, colour=COLOURS[number % len(COLOURS)])
    body += [*_times(end_s, scale, height=height), _text(MARGIN, height - 14, note, "fill:#555")]
    size = f'width="{WIDTH}" height="{height}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} viewBox="0 0 {WIDTH} {height}" font-family="sans-serif"'
    return "\n".join([f'{head} font-size="12">', f'<rect {size} fill="#fff"/>', *body, "</svg>"]) + "\n"


def _panel(curve: Curve, scale: float, *, top: int, colour: str) -> list[str]:
    most = max((value for _, value in curve.points), default=0) or 1
    step = -(-len(curve.points) // _MOST_POINTS) or 1
    shown = (f"{LEFT + at * scale:.1f},{top + PANEL * (1 - value / most):.1f}" for at, value in curve.points[::step])
    return [
        f'<rect x="{LEFT}" y="{top}" width="{WIDTH - LEFT - MARGIN}" height="{PANEL}" fill="none" stroke="#ddd"/>',
        _text(LEFT, top - 6, curve.label),
        _text(LEFT - 6, top + 10, f"{most:g}", anchor="end"),
        _text(LEFT - 6, top + PANEL, "0", anchor="end"),
        f'<polyline points="{" ".join(shown)}" fill="none" stroke="{colour}" stroke-width="1.5"/>',
    ]


def _mark(at: float, scale: float, *, top: int) -> str:
    x = LEFT + at * scale
    return f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{top}" y2="{top + PANEL}" stroke="#ccc" stroke-dasharray="2 3"/>'


def _times(end_s: float, scale: float, *, height: int) -> list[str]:
    minutes = ticks(end_s / 60)
    return [_text(LEFT + 60 * at * scale, height - FOOT + 14, f"{at:g} min", anchor="middle") for at in minutes]


def _text(x: float, y: float, text: str, style: str = "", anchor: str = "start") -> str:
    extra = f' style="{style}"' if style else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{extra}>{escape(text)}</text>'
