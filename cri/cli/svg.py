# SPDX-License-Identifier: Apache-2.0
"""A chart of phases as SVG, alone or in a page that needs nothing else. Used by `timeline`. Pure.

Names are foreign text: they are escaped, and cut where they would not fit.
"""

from datetime import UTC, datetime
from html import escape

from cri.cli.bars import Bar, Chart
from cri.cli.shown import cut, took
from cri.store import history as h

WIDE, LEFT, RIGHT, TOP, ROW = 960, 250, 96, 64, 26
TITLE_CHARS, LABEL_CHARS = 90, 30
TICKS = 6
COLOURS = {
    h.FILES: "#7a8794", h.NETWORK: "#2f7ed8", h.VMM: "#b5651d", h.KERNEL: "#c0392b", h.AGENT: "#8e5bb5",
    h.CONFIGURE: "#16a085", h.CLAIM: "#b5651d", h.PULL: "#c9a227", h.IMAGE: "#7f8c1f", h.CREATED: "#3d9970",
    h.STARTED: "#2e8b57",
}  # fmt: skip
STYLE = """
:root { color-scheme: light dark; --ink: #1c2126; --soft: #6b7580; --rule: #dde2e7; --paper: #ffffff; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e9ec; --soft: #98a2ad; --rule: #343b43; --paper: #16191d; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 62rem;
  margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.35rem; margin: 0 0 .3rem; } h2 { font-size: 1.05rem; margin: 2rem 0 .5rem; }
p { margin: .3rem 0; } p.soft { color: var(--soft); } svg { width: 100%; height: auto; }
svg .ink { fill: var(--ink); } svg .soft { fill: var(--soft); } svg .paper { fill: var(--paper); }
svg .rule { stroke: var(--rule); }
pre { overflow-x: auto; white-space: pre-wrap; border: 1px solid var(--rule); border-radius: 6px; padding: .7rem; }
"""


def svg(drawn: Chart, title: str, *, source: str) -> str:
    """A picture of its own; `source` is who measured."""
    high = TOP + ROW * len(drawn.bars) + 46
    begun = datetime.fromtimestamp(drawn.begun_s, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    ready = f", ready after {took(drawn.ready_ms)}" if drawn.ready_ms else ""
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDE} {high}" width="{WIDE}" height="{high}" role="img"'
        ' font-family="system-ui, sans-serif" font-size="13">',
        f'<rect width="{WIDE}" height="{high}" class="paper" fill="#ffffff"/>',
        _label((16, 24), f"Start of {title}{ready}", size=16, most=TITLE_CHARS),
        _label((16, 44), f"{begun}; {source}", soft=True, most=TITLE_CHARS + 20),
        *_axis(drawn.total_ms, high),
        *(line for number, bar in enumerate(drawn.bars) for line in _row(bar, number, total_ms=drawn.total_ms)),
        "</svg>",
    ]
    return "\n".join(parts)


def _label(at: tuple[float, float], text: str, *, most: int, **how: object) -> str:
    x, y = at
    fill = 'class="soft" fill="#6b7580"' if how.get("soft") else 'class="ink" fill="#1c2126"'
    size = f' font-size="{how["size"]}"' if "size" in how else ""
    font = ' font-family="ui-monospace, monospace"' if how.get("even") else ""
    anchor = f' text-anchor="{how["anchor"]}"' if "anchor" in how else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" {fill}{size}{font}{anchor}>{escape(cut(text, most))}</text>'


def _at(ms: float, total_ms: float) -> float:
    return LEFT + ms / total_ms * (WIDE - LEFT - RIGHT)


def _axis(total_ms: float, high: int) -> list[str]:
    """Round marks, with their unit below."""
    step = _step(total_ms)
    lines, mark = [], 0.0
    while mark <= total_ms:
        x = _at(mark, total_ms)
        lines.append(f'<line x1="{x:.1f}" y1="{TOP - 6}" x2="{x:.1f}" y2="{high - 36}" class="rule" stroke="#dde2e7"/>')
        lines.append(_label((x, high - 20), f"{mark:g}", soft=True, anchor="middle", most=12))
        mark += step
    lines.append(_label((WIDE - 8, high - 20), "ms", soft=True, anchor="end", most=4))
    return lines


def _step(total_ms: float) -> float:
    """1, 2 or 5 times a power of ten, so that there are at most about `TICKS` marks."""
    step = 1.0
    while total_ms / step > TICKS:
        step *= 2.5 if str(f"{step:e}")[0] == "2" else 2
    return step


def _row(bar: Bar, number: int, *, total_ms: float) -> list[str]:
    y, x = TOP + ROW * number, _at(bar.begun_ms, total_ms)
    colour, wide = COLOURS.get(bar.kind, "#7a8794"), max(_at(bar.begun_ms + bar.took_ms, total_ms) - x, 2)
    return [
        _label((LEFT - 12, y + 14), bar.name, anchor="end", size=12, even=True, most=LABEL_CHARS),
        f'<rect x="{x:.1f}" y="{y + 2}" width="{wide:.1f}" height="16" rx="3" fill="{colour}"/>',
        _label((x + wide + 6, y + 14), took(bar.took_ms), soft=True, most=12),
    ]


def page(drawn: Chart | None, title: str, *, source: str, story: list[str], console: list[str]) -> str:
    """An HTML page with the picture, the story's lines and the console's."""
    picture = svg(drawn, title, source=source) if drawn else "<p>No start of it is recorded.</p>"
    parts = [
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body>",
        f'<h1>{escape(title)}</h1><p class="soft">{escape(source)}</p>',
        picture,
        "<h2>What happened</h2>",
        _pre(story),
        *(["<h2>The end of the guest's console</h2>", _pre(console)] if console else []),
        "</body></html>",
    ]
    return "\n".join(parts)


def _pre(lines: list[str]) -> str:
    return f"<pre>{escape(chr(10).join(lines))}</pre>"
