# SPDX-License-Identifier: Apache-2.0
"""Copies a kernel's serial port, a file that its VMM appends to, into its container's log. Called by `own_kernel`.

The offset behind the copied part is the sequence number of the log's commit record, so the next daemon continues there.
The copied part of the file is freed (a hole); output that arrives faster than the log takes it is kept up to the limit
in `live.consoles`.
"""

import asyncio
import os
from contextlib import suppress
from typing import TYPE_CHECKING

from cri.threads import is_set_within, obtained
from stage1.errors import PodError
from stage1.linux import beneath, files
from stage1.linux.inotify import Watch

if TYPE_CHECKING:
    from cri.consumers import Consumer
    from cri.loop_budget import LoopBudget

CHUNK_BYTES = 65536
UNTAKEN_BYTES = 1 << 18
"""Of what was fed and the log, or who is attached, has not taken."""
GATHER_S = 0.01
"""A serial port is written a byte at a time: so long several make one chunk."""
POLL_S = 0.2
"""The poll interval if the host has no inotify watches left."""
REST_S = 5.0
"""How long the end of a kernel waits for a log that does not accept its last output."""


class Follower:
    """Follows the file `name` in the pod's `directory` from `offset` on, until `finish` or `close`."""

    def __init__(self, directory: str, name: str, *, offset: int, consumer: "Consumer", budget: "LoopBudget") -> None:
        self._directory, self._name, self._offset = directory, name, offset
        self._consumer, self._budget = consumer, budget
        self._untaken = 0
        self._taken, self._written, self._is_over = asyncio.Event(), asyncio.Event(), False
        self._fd = -1
        self._watch: Watch | None = None
        self._task: asyncio.Task[None] | None = None

    async def begin(self) -> None:
        """Open the file, and follow it in a task. Raises FileNotFoundError, KernelError."""
        self._fd = await obtained(self._open, os.close)
        with suppress(PodError):
            self._watch = await obtained(lambda: Watch(self._fd), Watch.close)
        if self._watch is not None:
            asyncio.get_running_loop().add_reader(self._watch.fileno(), self._notice, self._watch)
        self._task = asyncio.get_running_loop().create_task(self._follow(), name=f"serial port of {self._directory}")

    def _open(self) -> int:
        with beneath.Root(self._directory) as own:
            return own.open(self._name, os.O_RDWR)

    def _notice(self, watch: Watch) -> None:
        watch.clear()
        self._written.set()

    def consumed(self, count: int) -> None:
        """Note that this many bytes were processed."""
        self._untaken -= count
        self._taken.set()

    async def finish(self) -> None:
        """The writer has ended: read the rest, and close the log. Never raises."""
        self._is_over = True
        self._written.set()
        if self._task is not None:
            await asyncio.wait({self._task}, timeout=REST_S)
        await self.close()
        self._consumer.feed(b"", seq=self._offset + 1, end=True)
        self._consumer.commit()

    async def close(self) -> None:
        """End; what was not fed is for the next daemon. Idempotent."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
        if self._watch is not None:
            asyncio.get_running_loop().remove_reader(self._watch.fileno())
            self._watch.close()
            self._watch = None
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    async def _follow(self) -> None:
        while True:
            self._written.clear()
            is_last = self._is_over
            has_more = await self._feed_some()
            if is_last and not has_more:
                return
            if not has_more:
                await is_set_within(None if self._watch else POLL_S, self._written)
            await asyncio.sleep(0 if self._is_over else GATHER_S)

    async def _feed_some(self) -> bool:
        """One chunk; false when there is none."""
        while self._untaken >= UNTAKEN_BYTES:
            self._taken.clear()
            await self._taken.wait()
        await self._budget.begin()
        begun_s = asyncio.get_running_loop().time()
        try:
            data = self._read()
            if data:
                self._offset += len(data)
                self._untaken += len(data)
                self._untaken -= self._consumer.feed(data, seq=self._offset, end=False)
                self._consumer.commit()
                if self._offset // CHUNK_BYTES != (self._offset - len(data)) // CHUNK_BYTES:
                    files.forget_before(self._fd, self._offset)
        finally:
            self._budget.spend(asyncio.get_running_loop().time() - begun_s)
        return bool(data)

    def _read(self) -> bytes:
        """The next bytes; those that were truncated meanwhile are skipped."""
        try:
            self._offset = max(self._offset, os.lseek(self._fd, self._offset, os.SEEK_DATA))
        except OSError:  # ENXIO: nothing is there yet
            return b""
        return os.pread(self._fd, CHUNK_BYTES, self._offset)
