# SPDX-License-Identifier: Apache-2.0
"""Output of a container as entries of the CRI's log format. Pure; used by the writer. Format (contract section 7):

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


def entries(stream: bytes, data: bytes, *, stamp: bytes, final: bool) -> tuple[list[bytes], bytes]:
    """Cut `data` into entries; returns them and the unfinished line. `final`: nothing follows, so that
    becomes a P entry.
    """
    head = stamp + b" " + stream
    lines = data.split(b"\n")
    found = []
    for line in lines[:-1]:
        pieces = _pieces(line)
        found += [head + b" P " + piece + b"\n" for piece in pieces[:-1]]
        found.append(head + b" F " + pieces[-1] + b"\n")
    rest = lines[-1]
    while len(rest) > ENTRY_BYTES or (rest and final):
        found.append(head + b" P " + rest[:ENTRY_BYTES] + b"\n")
        rest = rest[ENTRY_BYTES:]
    return found, rest


def _pieces(line: bytes) -> list[bytes]:
    return [line[at : at + ENTRY_BYTES] for at in range(0, len(line), ENTRY_BYTES)] or [b""]
