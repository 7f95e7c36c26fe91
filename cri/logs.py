# SPDX-License-Identifier: Apache-2.0
"""Container log files in the CRI's format, written exactly once even when the daemon is killed.

One `LogWriter` per container, fed by `cri.pods` with the frames of its streams. Format (contract section 7):

    <RFC3339Nano> <stdout|stderr> <F|P> <text>\\n

F ends a line; P is a piece of a line that goes on: after 16 KiB, or at the end of the stream. The entries of a
frame are one write().

Exactly once: the guest repeats frames that were not acknowledged. After a batch, and before the
acknowledgement, a commit record {sequence number, size of the file, unfinished lines} replaces the old one.
After a crash the file, under whatever name, is cut to the recorded size, and frames up to the recorded number
are dropped.

A log that can't be written loses nothing either: what comes is held, in memory and in the record, until it can.
The caller gives the guest no credit meanwhile, so that it is at most a window for each stream.
"""

import base64
import json
import logging
import os
import time
from collections import deque
from typing import Any, NamedTuple

from stage1.errors import NoSpace, PodError
from stage1.linux import files

log = logging.getLogger("clearpod.container")

ENTRY_BYTES = 16384
"""Longest text of one entry."""
SMALL_BYTES = 4096
"""Output that is held is put together up to here: each piece takes memory of its own, and a place in the record."""
_FLAGS = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC


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
    found = []
    if newline:
        found += [_one(first, partial=partial, full=full)]
        if b"\n" in more:
            short = len(lines) <= ENTRY_BYTES
            found += (
                [full + lines.replace(b"\n", b"\n" + full) + b"\n"]
                if short
                else [_one(line, partial=partial, full=full) for line in lines.split(b"\n")]
            )
    while len(rest) > ENTRY_BYTES or (rest and final):
        found.append(partial + rest[:ENTRY_BYTES] + b"\n")
        rest = rest[ENTRY_BYTES:]
    return b"".join(found), rest


def _one(line: bytes, *, partial: bytes, full: bytes) -> bytes:
    *pieces, last = _pieces(line)
    return b"".join([*(partial + piece + b"\n" for piece in pieces), full + last + b"\n"])


def _pieces(line: bytes) -> list[bytes]:
    return [line[at : at + ENTRY_BYTES] for at in range(0, len(line), ENTRY_BYTES)] or [b""]


class Frame(NamedTuple):
    """What came on one stream, and when."""

    stream: str
    data: bytes
    end: bool
    unix_ns: int


class LogWriter:
    """One log file. `record_path` is where the commit record lies; an empty `path` means that output is
    dropped.

    While the file can't be written `is_stuck`, and `fault` says why.
    """

    def __init__(self, path: str, record_path: str) -> None:
        self._path, self._record_path = path, record_path
        self._file = -1
        self._size = self._inode = 0
        self._seq = 0
        self._pending = {"stdout": b"", "stderr": b""}
        self._unwritten: deque[bytes] = deque()
        self._held: deque[Frame] = deque()
        self._is_dirty = False
        self.fault = ""
        self.is_closed = False
        if path:
            self._restore()
            self._open_or_note()
            self._is_dirty = True  # from here on, what the file has beyond the record is known to be uncommitted
            self.retry()
            self.commit()

    @property
    def is_stuck(self) -> bool:
        """Whether output is held back; `retry` tries again."""
        return bool(self._unwritten or self._held)

    def feed(self, stream: str, data: bytes, *, seq: int, end: bool = False, unix_ns: int | None = None) -> None:
        """Write the lines of `data`; `stream` is stdout or stderr. A sequence number seen before is dropped."""
        if not self._path or seq <= self._seq:
            return
        last = self._held[-1] if self._held else None
        if last and last.stream == stream and not last.end and len(last.data) + len(data) <= SMALL_BYTES:
            self._held[-1] = last._replace(data=last.data + data, end=end)
        else:
            self._held.append(Frame(stream, data, end, time.time_ns() if unix_ns is None else unix_ns))
        if len(self._held) == 1 and not self._unwritten:
            self._work()
        self._seq, self._is_dirty = seq, True

    def retry(self) -> bool:
        """Try to write what is held; true when nothing is left. Call `commit` afterwards."""
        if self._path and self._file < 0:
            self._open_or_note()
        if self.is_stuck:
            self._is_dirty = True
            self._work()
        return not self.is_stuck

    def commit(self) -> None:
        """Make what was fed so far count, whatever happens next; call before acknowledging the frames.

        Raises KernelError when the record can't be written.
        """
        if not self._is_dirty:
            return
        record = {
            "v": 1,
            "seq": self._seq,
            "size": self._size,
            "inode": self._inode,
            "pending": {name: _text(rest) for name, rest in self._pending.items()},
            "unwritten": [_text(entry) for entry in self._unwritten],
            "held": [[one.stream, _text(one.data), one.end, one.unix_ns] for one in self._held],
        }
        files.write_atomic(self._record_path, json.dumps(record).encode())
        self._is_dirty = False

    def flush(self) -> None:
        """Write unfinished lines as P entries: the process is gone and no END will come."""
        if not self._path:
            return
        now, was_closed = time.time_ns(), self.is_closed
        self._held += [Frame(stream, b"", True, now) for stream in self._pending]
        self.retry()
        self.commit()
        if was_closed:
            self.close()

    def reopen(self) -> None:
        """The file was renamed: go on in a new one, which exists when this returns.

        Raises NoSpace when it can't be made; the old one stays open then.
        """
        if not self._path:
            return
        old, inode = self._file, self._inode
        try:
            self._open()
        except (OSError, PodError) as error:
            raise NoSpace(f"{self._path} can't be opened anew, the old file is still in use: {error}") from None
        if old >= 0:
            os.close(old)
        if inode != self._inode:
            self.fault = ""
        self._is_dirty = True
        self.retry()
        self.commit()

    def close(self) -> None:
        """Give the descriptor back; the log and its record stay."""
        self.is_closed = True
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def remove_record(self) -> None:
        """The container is removed: its commit record goes, the log is kubelet's."""
        self.close()
        self._path = ""
        try:
            os.unlink(self._record_path)
        except FileNotFoundError:
            pass

    def _restore(self) -> None:
        try:
            with open(self._record_path, "rb") as opened:
                self._restore_from(json.loads(opened.read()))
        except FileNotFoundError:
            return
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            log.error("log.record", extra={"path": self._record_path, "error": f"damaged, and not used: {error!r}"})
            return
        self._cut_renamed()

    def _restore_from(self, record: dict[str, Any]) -> None:
        """All of it or, when it is damaged, nothing."""
        position = [int(record[key]) for key in ("seq", "inode", "size")]
        pending = {name: base64.b64decode(record["pending"][name]) for name in self._pending}
        unwritten = deque(base64.b64decode(entry) for entry in record.get("unwritten", ()))
        held = deque(
            Frame(_known(stream), base64.b64decode(data), bool(end), int(unix_ns))
            for stream, data, end, unix_ns in record.get("held", ())
        )
        self._seq, self._inode, self._size = position
        self._pending, self._unwritten, self._held = pending, unwritten, held

    def _cut_renamed(self) -> None:
        """The file was renamed and the daemon killed before it went on in a new one: what was not committed
        comes again and must not be in the old one.
        """
        directory, name = os.path.split(self._path)
        try:
            with os.scandir(directory) as entries:
                old = [one.path for one in entries if one.name.startswith(name) and one.inode() == self._inode]
        except FileNotFoundError:
            return
        for path in old:
            if path != self._path and os.stat(path).st_size > self._size:
                os.truncate(path, self._size)

    def _open_or_note(self) -> None:
        try:
            self._open()
        except (OSError, PodError) as error:
            self.fault = f"{self._path} can't be opened: {error}"

    def _open(self) -> None:
        files.make_dirs(os.path.dirname(self._path), 0o755)
        opened = os.open(self._path, _FLAGS, 0o640)
        os.fchmod(opened, 0o640)
        found = os.fstat(opened)
        if found.st_ino == self._inode and found.st_size > self._size:
            os.ftruncate(opened, self._size)  # written, but not committed: these frames come again
        else:
            self._size = found.st_size
        self._file, self._inode = opened, found.st_ino

    def _work(self) -> None:
        """Write what there is, until it is done or fails."""
        while self._write_entries() and self._held:
            one = self._held.popleft()
            whole = self._pending[one.stream] + one.data
            stamp = timestamp(one.unix_ns)
            found, self._pending[one.stream] = entries(one.stream.encode(), whole, stamp=stamp, final=one.end)
            if found:
                self._unwritten.append(found)

    def _write_entries(self) -> bool:
        while self._unwritten:
            if not self._write(self._unwritten[0]):
                return False
            self._unwritten.popleft()
        return True

    def _write(self, entry: bytes) -> bool:
        """The entries of one frame, all or none."""
        if self._file < 0:
            return False
        try:
            written = os.write(self._file, entry)
            if written != len(entry):  # half an entry would make the whole file unreadable
                os.ftruncate(self._file, self._size)
                raise OSError(28, "not all of it fitted")
        except OSError as error:
            self.fault = f"{self._path} can't be written, the container waits until it can: {error}"
            return False
        self._size += written
        self.fault = ""
        return True


def _known(stream: str) -> str:
    if stream not in ("stdout", "stderr"):
        raise ValueError(f"{stream!r} is no stream")
    return stream


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()
