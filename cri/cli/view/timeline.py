# SPDX-License-Identifier: Apache-2.0
"""`clearpod timeline`: the phases of a pod's start as bars on one axis, with characters, as SVG or as a page of HTML.

A container's phases are shown as far as they belong to the start: the first of each, and none that begins later than
`START_S` after the pod was ready. Names are foreign text: they are escaped, and cut where they would not fit.
"""

import argparse
import time
from datetime import UTC, datetime
from html import escape
from typing import NamedTuple

from cri import __version__
from cri.cli import shown
from cri.cli.daemon import connect
from cri.cli.parser import Command, Parser
from cri.cli.shown import cut, took
from cri.cli.view import why
from cri.cli.view.why import PHASES, Record, find
from cri.store import history as h

START_S = 120.0
CONTAINER = {h.PULL: "pull of {0.text}", h.IMAGE: "image of {0.subject}", h.CREATED: "create {0.subject}",
             h.STARTED: "start {0.subject}"}  # fmt: skip
NAME_CHARS, LEAST_BAR = 28, 10


class Bar(NamedTuple):
    """A phase: its begin after the first one, and how long it took. `kind` is what the record calls it."""

    kind: str
    name: str
    begun_ms: float
    took_ms: float


class Chart(NamedTuple):
    """`total_ms` is the end of the last bar, `ready_ms` when the pod was ready (0: never), `begun_s` since 1970."""

    bars: tuple[Bar, ...]
    total_ms: float
    ready_ms: float
    begun_s: float


def chart(record: Record) -> Chart | None:
    """None when nothing of a start is recorded."""
    ready = next((one for one in record.events if one.what == h.READY), None)
    until_s = (ready.at_s if ready else 0) + START_S
    seen: set[tuple[str, str]] = set()
    chosen: list[tuple[float, float, str, str]] = []
    for one in record.events:
        pattern = PHASES.get(one.what) or CONTAINER.get(one.what)
        begun_s = one.at_s - one.took_ms / 1000
        if pattern and one.took_ms and (one.what, one.subject) not in seen and begun_s <= until_s:
            seen.add((one.what, one.subject))
            chosen.append((begun_s, one.took_ms, one.what, pattern.format(one)))
    if not chosen:
        return None
    first_s = min(begun for begun, *_ in chosen)
    bars = tuple(Bar(kind, name, (begun - first_s) * 1000, ms) for begun, ms, kind, name in sorted(chosen))
    total_ms = max(bar.begun_ms + bar.took_ms for bar in bars)
    return Chart(bars, total_ms, (ready.at_s - first_s) * 1000 if ready else 0.0, first_s)


def drawn_text(drawn: Chart, columns: int) -> str:
    """One line for each phase: name, how long, when, a bar; in lines of at most `columns` characters."""
    name_wide = min(max(len(bar.name) for bar in drawn.bars), NAME_CHARS, max(columns // 3, 6))
    bar_columns = max(columns - name_wide - 22, 0)
    lines = [f"{'phase':<{name_wide}}  {'took':>8}  {'from':>8}"[:columns]]
    for bar in drawn.bars:
        line = f"{cut(bar.name, name_wide):<{name_wide}}  {took(bar.took_ms):>8}  {took(bar.begun_ms):>8}"
        if bar_columns >= LEAST_BAR:
            left, right = (
                round(ms / drawn.total_ms * bar_columns) for ms in (bar.begun_ms, bar.begun_ms + bar.took_ms)
            )
            line += "  " + " " * min(left, bar_columns - 1) + "█" * max(right - left, 1)
        lines.append(line[:columns])
    if drawn.ready_ms:
        lines.append(f"the pod was ready after {took(drawn.ready_ms)}"[:columns])
    return "\n".join(lines)


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


def html(drawn: Chart | None, title: str, *, source: str, story: list[str], console: list[str]) -> str:
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


EXAMPLES = (
    ("clearpod timeline default/web", "the phases of the start of the pod web"),
    ("clearpod timeline default/web --html > web.html", "a page for a browser, which needs no other file"),
)
PLAIN_COLUMNS = 100


def add_arguments(parser: Parser) -> None:
    """The options of `clearpod timeline`."""
    parser.take_pod()
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--svg", action="store_true", help="print a picture")
    form.add_argument(
        "--html", action="store_true", help="print an HTML page, with the history that `clearpod why` shows"
    )
    parser.take_config()


def main(args: argparse.Namespace) -> int:
    """Draw a pod's start on standard output. Raises NotFound, BadRequest."""
    with connect(args.config) as daemon:
        record = find(daemon, args.pod)
    drawn = chart(record)
    if args.html:
        shown.write(page(record, drawn))
    elif drawn is None:
        shown.write(f"nothing of the start of {record.title} is recorded")
    elif args.svg:
        shown.write(svg(drawn, shown.printable(record.title), source=source(record)))
    else:
        shown.write(f"pod {shown.printable(record.title)}\n{drawn_text(drawn, shown.width() or PLAIN_COLUMNS)}")
    return 0


def page(record: Record, drawn: Chart | None) -> str:
    """Return the timeline as a page of HTML."""
    story = why.text(record, now_s=time.time()).splitlines()
    return html(drawn, shown.printable(f"pod {record.title}"), source=source(record), story=story, console=[])


def source(record: Record) -> str:
    """Return which version of clearpod measured the phases, and with which hypervisor."""
    return f"measured by clearpod {__version__}" + (f" with {record.hypervisor}" if record.hypervisor else "")


COMMANDS = {"timeline": Command(EXAMPLES, add_arguments, main)}
