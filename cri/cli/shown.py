# SPDX-License-Identifier: Apache-2.0
"""Tables, times and sizes for people, at the width of their terminal. Used by the commands. Pure but for `write`.

Texts may come from others: control characters are escaped before they reach a terminal.
"""

import os
import sys
from datetime import UTC, datetime

from cri.store.history import printable as printable

ANY_WIDTH = 0
NARROWEST = 8
ID_CHARS = 13
PROTOCOLS = {0: "tcp", 1: "udp", 2: "sctp"}
"""The CRI's numbers."""


def write(text: str) -> None:
    """Print lines now: a reader that went away is noticed here and not at the end."""
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")
    print(text, flush=True)


def width() -> int:
    """Columns of the terminal; any number of them when standard output is none."""
    return _terminal()[0] if sys.stdout.isatty() else ANY_WIDTH


def height() -> int:
    """Lines of the terminal."""
    return _terminal()[1]


def _terminal() -> tuple[int, int]:
    try:
        columns, lines = os.get_terminal_size(sys.stdout.fileno())
    except OSError:
        columns, lines = 0, 0
    return columns or 80, lines or 24


def has_colours() -> bool:
    """Whether standard output is a terminal that may be coloured (NO_COLOR)."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def table(rows: list[tuple[str, ...]], columns: int = ANY_WIDTH) -> str:
    """The rows, of which the first one is the header; the widest columns are cut until a line has `columns`."""
    rows = [tuple(map(printable, row)) for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    while columns and sum(widths) + 2 * (len(widths) - 1) > columns and max(widths) > NARROWEST:
        widths[widths.index(max(widths))] -= 1
    return "\n".join(_line(row, widths)[: columns or None] for row in rows)


def _line(row: tuple[str, ...], widths: list[int]) -> str:
    return "  ".join(cut(cell, wide).ljust(wide) for cell, wide in zip(row, widths, strict=True)).rstrip()


def cut(text: str, most: int) -> str:
    """The text in at most `most` characters, with a sign where some are missing."""
    return text if len(text) <= most else text[: max(most - 1, 0)] + "…"


def age(seconds: float) -> str:
    """An age, in one unit."""
    seconds = max(seconds, 0)
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= 2 * size:
            return f"{int(seconds // size)}{unit}"
    return f"{int(seconds)}s"


def size(count: float) -> str:
    """Bytes in the unit that makes a short number."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count) < 1024 or unit == "GiB":
            break
        count /= 1024
    return f"{count:.0f} {unit}" if count >= 100 or unit == "B" else f"{count:.1f} {unit}"


def took(ms: float) -> str:
    """A duration, in ms or s."""
    return f"{ms:.0f} ms" if ms < 10_000 else f"{ms / 1000:.1f} s"


def port(address: str, outer: int, *, inner: int, protocol: str) -> str:
    """A published port, as podman writes it."""
    host = f"[{address}]" if ":" in address else address or "0.0.0.0"
    return f"{host}:{outer}->{inner}/{protocol}"


def moment(text: str) -> datetime:
    """A time as the daemon writes it; the epoch for what is none."""
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return datetime.fromtimestamp(0, UTC)


def clock(at: datetime, now: datetime) -> str:
    """Local time of day, and the date when that is another one."""
    local = at.astimezone()
    return local.strftime("%H:%M:%S" if local.date() == now.astimezone().date() else "%Y-%m-%d %H:%M:%S")
