# SPDX-License-Identifier: Apache-2.0
"""The writer of one container's log file. Called by `feed` on the event loop, except the methods that block.

Exactly once: the guest repeats frames that were not acknowledged. After a batch, and before the acknowledgement, a
commit record {sequence number, size of the file, unfinished lines} replaces the old one. After a crash the file, also
if it was renamed, is truncated to the recorded size, and frames up to the recorded number are dropped.

Output is written in a thread (`batch`, `settle`), since a busy disk, or one that hangs, blocks its writers. Unwritten
output is held, in memory and in the record; the caller gives the guest no credit for it, so that it is at most a window
for each stream.
"""

import base64
import logging
import os
import time
from collections import deque
from itertools import islice
from typing import Any

from cri.logs.batch import ENTRIES, Batch, Frame, Progress, write
from cri.logs.place import LogPlace
from cri.logs.record import CommitRecord
from stage1.errors import Exhausted, NoSpace, PodError, WrongState
from stage1.linux.files import NotPlain

log = logging.getLogger("clearpod.container")

SMALL_BYTES = 4096
"""Output that is held is put together up to here: each piece takes memory of its own, and a place in the record."""


class LogWriter:
    """One log file. Without a path, output is dropped.

    While output is not in the file `is_stuck`, and `fault` is the reason if there is an error. `open`, `open_file`,
    `retry` and `remove_record` block; all else is for the event loop, and `take` gets there what was opened.
    """

    def __init__(self, place: LogPlace, record: CommitRecord) -> None:
        self._place, self._record = place, record
        self._file = -1
        self._size = self._inode = 0
        self._seq = 0
        self._pending = {"stdout": b"", "stderr": b""}
        self._held: deque[Frame] = deque()
        self._in_batch = 0  # of those: on their way in a thread
        self._is_dirty = self._is_odd = False
        self.fault = ""
        self.is_closed = False

    def open(self, *, is_new: bool = False) -> None:
        """Read the record unless the container `is_new`, open the file, write what was held; blocks. What fails is in
        `fault`. There is no input yet.

        Raises Exhausted.
        """
        if not self._place:
            return
        try:
            self._restore(self._record.open(is_new=is_new))
            self._is_dirty = True  # from here on, what the file has beyond the record is known to be uncommitted
            self.take(self._place.open(is_new=is_new))
        except Exhausted:
            raise  # without its record the log would have lines twice
        except PodError as error:
            self.note(error)
            self._commit_quietly()

    def require_file(self) -> None:
        """Raise WrongState when something else is in the file's place, NoSpace when it can't be opened otherwise."""
        if self.fault:
            raise (WrongState if self._is_odd else NoSpace)(self.fault)

    @property
    def is_stuck(self) -> bool:
        """Whether output is held: `retry`, or `batch` and `settle`, write it."""
        return bool(self._held)

    @property
    def seq(self) -> int:
        """The last sequence number that was fed, also to the daemon before."""
        return self._seq

    @property
    def lacks_file(self) -> bool:
        """Whether it must be opened before it can be written."""
        return bool(self._place) and self._file < 0 and not self.is_closed

    def feed(self, stream: str, data: bytes, *, seq: int, end: bool = False, unix_ns: int | None = None) -> None:
        """Hold `data` until it is written; `stream` is stdout or stderr. A sequence number seen before is dropped."""
        if not self._place or seq <= self._seq:
            return
        last = self._held[-1] if len(self._held) > self._in_batch else None
        if last and last.stream == stream and not last.end and len(last.data) + len(data) <= SMALL_BYTES:
            self._held[-1] = last._replace(data=last.data + data, end=end)
        else:
            self._held.append(Frame(stream, data, end, time.time_ns() if unix_ns is None else unix_ns))
        self._seq, self._is_dirty = seq, True

    def retry(self) -> bool:
        """Try to write what is held; return whether all of it is written. Call `commit` afterwards, and no batch
        meanwhile.
        """
        if self.is_stuck:
            self._is_dirty = True
            self._work()
        return not self.is_stuck

    def batch(self) -> Batch | None:
        """The held output, for a thread to write; None if there is none, or no file. Call `settle` before the next."""
        if self._file < 0 or not self._held:
            return None
        frames = tuple(self._held)
        self._in_batch = len(frames)
        return Batch(os.dup(self._file), frames, Progress(self._size, dict(self._pending)))

    def settle(self, done: Progress) -> None:
        """Merge the results of the thread. Call `commit` afterwards."""
        self._in_batch = 0
        self._is_dirty = True
        self._held = deque(islice(self._held, done.frames, None))
        self._size, self._pending, self.fault = done.size, done.pending, ""
        if done.fault:
            self.fault = f"{self._place.path} can't be written, the container waits until it can: {done.fault}"

    def commit(self) -> None:
        """Make what was fed so far durable; call before acknowledging the frames.

        Raises NoSpace, KernelError when the record can't be written.
        """
        if not self._is_dirty or self.is_closed:
            return
        self._record.write(
            {
                "v": 1,
                "seq": self._seq,
                "size": self._size,
                "inode": self._inode,
                "pending": {name: _text(rest) for name, rest in self._pending.items()},
                "held": [[one.stream, _text(one.data), one.end, one.unix_ns] for one in self._held],
            }
        )
        self._is_dirty = False

    def flush(self) -> None:
        """Unfinished lines become P entries: the process is gone and no END will come. Raises NoSpace, KernelError."""
        if not self._place or self.is_closed:
            return
        now = time.time_ns()
        self._held += [Frame(stream, b"", True, now) for stream in self._pending]
        self._is_dirty = True
        self.commit()

    def open_file(self) -> int:
        """A descriptor for `take`; blocks. Raises PodError."""
        return self._place.open()

    def take(self, fd: int) -> None:
        """Go on in the file that `open_file` has opened, in place of the one that may have been renamed.

        Raises as `commit`.
        """
        if self.is_closed or not self._place:
            os.close(fd)
            return
        status, old = os.fstat(fd), self._file
        if status.st_ino == self._inode and status.st_size > self._size:
            os.ftruncate(fd, self._size)  # written, but not committed: these frames come again
        else:
            self._size = status.st_size
        if old < 0 or status.st_ino != self._inode:
            self.fault = ""
        if old >= 0:
            os.close(old)
        self._file, self._inode, self._is_dirty = fd, status.st_ino, True
        self.retry()
        self.commit()

    def refused(self, error: PodError) -> PodError:
        """The error to raise if `open_file` has failed and the old file is still in use."""
        kind = WrongState if isinstance(error, NotPlain) else NoSpace
        return kind(f"{self._place.path} can't be opened again, the old file is still in use: {error}")

    def close(self) -> None:
        """Give the descriptors back; the log and its record stay."""
        self.is_closed = True
        self._record.close()
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def remove_record(self) -> None:
        """The container is removed and the writer closed: its commit record goes, the log is kubelet's. Blocks."""
        self._record.remove()

    def _restore(self, record: dict[str, Any] | None) -> None:
        if record is None:
            return
        try:
            self._adopt(record)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            log.error("container.log", extra={"file": self._place.path, "error": f"its record is damaged: {error!r}"})
            return
        # Renamed, and the daemon killed before it went on in a new one.
        self._place.cut_renamed(self._inode, self._size)

    def _adopt(self, record: dict[str, Any]) -> None:
        seq, inode, size = (int(record[key]) for key in ("seq", "inode", "size"))
        pending = {name: base64.b64decode(record["pending"].get(name, "")) for name in self._pending}
        # Until 2026-11 what could not be written was recorded as entries.
        held = deque(Frame(ENTRIES, base64.b64decode(entry), False, 0) for entry in record.get("unwritten", ()))
        held += (
            Frame(
                stream if stream in (*pending, ENTRIES) else "stdout",
                base64.b64decode(data),
                bool(end),
                max(0, int(unix_ns)),
            )
            for stream, data, end, unix_ns in record.get("held", ())
        )
        self._seq, self._inode, self._size = seq, inode, max(size, 0)
        self._pending, self._held = pending, held

    def note(self, error: PodError) -> None:
        """Remember why the file could not be opened."""
        self._is_odd = isinstance(error, NotPlain)
        self.fault = f"{self._place.path} can't be opened: {error}"

    def _commit_quietly(self) -> None:
        try:
            self.commit()
        except PodError:
            return  # the next batch will report it

    def _work(self) -> None:
        """Write what there is, until it is done or fails."""
        if self._file >= 0:
            self.settle(write(self._file, self._held, done=Progress(self._size, self._pending)))


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()
