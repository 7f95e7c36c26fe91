# SPDX-License-Identifier: Apache-2.0
"""Container log files in the CRI's format, written exactly once even when the daemon is killed.

One `LogWriter` per container, fed by `cri.pods` with the frames of its streams. Format (contract section 7):

    <RFC3339Nano> <stdout|stderr> <F|P> <text>\\n

F ends a line; P is a piece of a line that goes on: after 16 KiB, or at the end of the stream. Each entry is
one write().

Exactly once: the guest repeats frames that were not acknowledged. After a batch, and before the
acknowledgement, a commit record {sequence number, size of the file, unfinished lines} replaces the old one.
After a crash the file is cut to the recorded size and frames up to the recorded number are dropped.
"""

import base64
import json
import os
import time

from stage1.errors import PodError
from stage1.linux import files

ENTRY_BYTES = 16384
"""Longest text of one entry."""
_FLAGS = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC


def timestamp(unix_ns: int) -> bytes:
    """RFC3339Nano in UTC, always nine digits."""
    seconds, rest = divmod(unix_ns, 1_000_000_000)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{rest:09d}Z".encode()


def entries(stream: bytes, data: bytes, stamp: bytes, *, final: bool) -> tuple[list[bytes], bytes]:
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


class LogWriter:
    """One log file. `record_path` is where the commit record lies; an empty `path` means that output is
    dropped.

    Faults of the disk must not stop the container: output is dropped while they last, and `fault` says why.
    """

    def __init__(self, path: str, record_path: str) -> None:
        self._path, self._record_path = path, record_path
        self._file = -1
        self._size = self._inode = 0
        self._seq = 0
        self._pending = {"stdout": b"", "stderr": b""}
        self._is_dirty = False
        self.fault = ""
        if path:
            self._restore()
            self._open()
            self._is_dirty = (
                True  # from here on, what the file has beyond the record is known to be uncommitted
            )
            self.commit()

    def feed(
        self, stream: str, data: bytes, seq: int, *, end: bool = False, unix_ns: int | None = None
    ) -> None:
        """Write the lines of `data`; `stream` is stdout or stderr. A sequence number seen before is dropped.
        """
        if not self._path or seq <= self._seq:
            return
        stamp = timestamp(time.time_ns() if unix_ns is None else unix_ns)
        whole = self._pending[stream] + data
        found, self._pending[stream] = entries(stream.encode(), whole, stamp, final=end)
        for entry in found:
            self._write(entry)
        self._seq, self._is_dirty = seq, True

    def commit(self) -> None:
        """Make what was fed so far count, whatever happens next; call before acknowledging the frames."""
        if not self._is_dirty:
            return
        record = {
            "v": 1,
            "seq": self._seq,
            "size": self._size,
            "inode": self._inode,
            "pending": {name: base64.b64encode(text).decode() for name, text in self._pending.items()},
        }
        files.write_atomic(self._record_path, json.dumps(record).encode())
        self._is_dirty = False

    def flush(self) -> None:
        """Write unfinished lines as P entries: the process is gone and no END will come."""
        for stream, rest in self._pending.items():
            found, _ = entries(stream.encode(), rest, timestamp(time.time_ns()), final=True)
            for entry in found:
                self._write(entry)
            self._pending[stream] = b""
            self._is_dirty = self._is_dirty or bool(found)
        if self._path:
            self.commit()

    def reopen(self) -> None:
        """The file was renamed: go on in a new one, which exists when this returns."""
        if self._path:
            self._close()
            self._open()
            self._is_dirty = True
            self.commit()

    def close(self) -> None:
        """Give the descriptor back; the log and its record stay."""
        self._close()

    def remove_record(self) -> None:
        """The container is removed: its commit record goes, the log is kubelet's."""
        self._close()
        try:
            os.unlink(self._record_path)
        except FileNotFoundError:
            pass

    def _restore(self) -> None:
        try:
            with open(self._record_path, "rb") as opened:
                record = json.loads(opened.read())
        except FileNotFoundError:
            return
        self._seq, self._inode, self._size = record["seq"], record["inode"], record["size"]
        self._pending = {name: base64.b64decode(text) for name, text in record["pending"].items()}

    def _open(self) -> None:
        try:
            files.make_dirs(os.path.dirname(self._path), 0o755)
            self._file = os.open(self._path, _FLAGS, 0o640)
            os.fchmod(self._file, 0o640)
        except (OSError, PodError) as error:
            self.fault = f"{self._path} can't be opened: {error}"
            return
        found = os.fstat(self._file)
        if found.st_ino == self._inode and found.st_size > self._size:
            os.ftruncate(self._file, self._size)  # written, but not committed: these frames come again
        else:
            self._size = found.st_size
        self._inode = found.st_ino

    def _close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _write(self, entry: bytes) -> None:
        if self._file < 0:
            return
        try:
            written = os.write(self._file, entry)
            if written != len(entry):  # half an entry would make the whole file unreadable
                os.ftruncate(self._file, self._size)
                raise OSError(28, "only half an entry fitted")
        except OSError as error:
            self.fault = f"{self._path} can't be written, output is lost: {error}"
            return
        self._size += written
        self.fault = ""
