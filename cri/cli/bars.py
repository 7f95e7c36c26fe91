# SPDX-License-Identifier: Apache-2.0
"""The phases of a pod's start as bars on one axis, and their drawing with characters. Used by `timeline`. Pure.

Its containers' phases are shown as far as they belong to the start: the first of each, and none that begins later than
`START_S` after the pod was ready.
"""

from typing import NamedTuple

from cri.cli.record import Record
from cri.cli.shown import cut, took
from cri.cli.story import PHASES
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


def text(drawn: Chart, columns: int) -> str:
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
