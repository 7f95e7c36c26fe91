# SPDX-License-Identifier: Apache-2.0
"""Output of a container as entries of the CRI's log format. Pure; used by the writer. Format:

    <RFC3339Nano> <stdout|stderr> <F|P> <text>\\n

F ends a line; P is a piece of a line that goes on: after 16 KiB, or at the end of the stream.
"""

import time

ENTRY_BYTES = 16384
"""Longest text of one entry."""


def timestamp(unix_ns: int) -> bytes:
    """RFC3339Nano in UTC, always nine digits."""
    seconds, rest = divmod(unix_ns, 1_000_000_000)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{rest:09d}Z".encode()


def entries(stream: bytes, data: bytes, *, stamp: bytes, final: bool) -> tuple[bytes, bytes]:
    """Cut `data` into entries; returns them, one after the other, and the unfinished line. `final`: nothing follows,
    so that becomes a P entry.

    Many short lines cost next to nothing: a container can write sixteen thousand in one frame.
    """
    head = stamp + b" " + stream
    partial, full = head + b" P ", head + b" F "
    first, newline, more = data.partition(b"\n")
    lines, _, rest = more.rpartition(b"\n") if newline else (b"", b"", first)
    parts = []
    if newline:
        parts += [_one(first, partial=partial, full=full)]
        if b"\n" in more:
            short = len(lines) <= ENTRY_BYTES
            parts += (
                [full + lines.replace(b"\n", b"\n" + full) + b"\n"]
                if short
                else [_one(line, partial=partial, full=full) for line in lines.split(b"\n")]
            )
    while len(rest) > ENTRY_BYTES or (rest and final):
        parts.append(partial + rest[:ENTRY_BYTES] + b"\n")
        rest = rest[ENTRY_BYTES:]
    return b"".join(parts), rest


def _one(line: bytes, *, partial: bytes, full: bytes) -> bytes:
    *pieces, last = _pieces(line)
    return b"".join([*(partial + piece + b"\n" for piece in pieces), full + last + b"\n"])


def _pieces(line: bytes) -> list[bytes]:
    return [line[at : at + ENTRY_BYTES] for at in range(0, len(line), ENTRY_BYTES)] or [b""]
