# SPDX-License-Identifier: Apache-2.0
"""Frames of output on their way into a log file, in a thread. Used by the writer. It knows nothing of records: what it
has done is returned, and the writer takes that over.
"""

import os
from collections.abc import Iterable
from typing import NamedTuple

from cri.logs.entries import entries, timestamp

ENTRIES = ""
"""The stream of data that a previous daemon has converted to entries already."""


class Frame(NamedTuple):
    """Data of one stream, stdout or stderr, and when it arrived."""

    stream: str
    data: bytes
    end: bool
    unix_ns: int


class Progress(NamedTuple):
    """How far the writing has come: the file's size, the unfinished line of each stream, the frames done, the fault."""

    size: int
    pending: dict[str, bytes]
    frames: int = 0
    fault: str = ""


class Batch(NamedTuple):
    """Frames to be written in a thread. `file` is a descriptor of the batch's own, which `write` closes."""

    file: int
    frames: tuple[Frame, ...]
    begin: Progress

    def write(self) -> Progress:
        """Write them; blocks as long as the file system does."""
        try:
            return write(self.file, self.frames, done=self.begin)
        finally:
            os.close(self.file)


def write(file: int, frames: Iterable[Frame], *, done: Progress) -> Progress:
    """Append the entries of each frame by one write(), all or none; stops at the first that fails."""
    for frame in frames:
        data, pending = _entries(frame, done.pending)
        fault = _append(file, data, size=done.size) if data else ""
        if fault:
            return done._replace(fault=fault)
        done = Progress(done.size + len(data), pending, done.frames + 1)
    return done


def _entries(frame: Frame, pending: dict[str, bytes]) -> tuple[bytes, dict[str, bytes]]:
    if frame.stream == ENTRIES:
        return frame.data, pending
    whole = pending[frame.stream] + frame.data
    data, rest = entries(frame.stream.encode(), whole, stamp=timestamp(frame.unix_ns), final=frame.end)
    return data, {**pending, frame.stream: rest}


def _append(file: int, data: bytes, *, size: int) -> str:
    """Why it failed; nothing when all of it is in the file."""
    try:
        if os.write(file, data) == len(data):
            return ""
        os.ftruncate(file, size)  # half an entry would make the whole file unreadable
        return "it was written partially"
    except OSError as error:
        return str(error)
