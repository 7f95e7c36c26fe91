# SPDX-License-Identifier: Apache-2.0
"""Passes output from the link to a container's log and to attached clients, and gives the guest credit when all of them
have the output.

Owned by the container. A log that can't be written is tried again; it slows its container, as a slow client does, and
loses nothing: `cri.logs` holds what came.
"""

import asyncio
import functools
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from cri.logs.writer import LogWriter
from cri.output_queue import Buffer, OutputQueue
from cri.threads import started
from stage1.errors import PodError

log = logging.getLogger("clearpod.container")

RETRY_S = 1.0
WRITTEN_S = 5.0
"""How long the exit of a container is not reported because its log's file system does not answer."""

LOGS_AT_ONCE = 4
"""Logs that are written at the same time. A disk that hangs takes all of these threads, and no other."""

Consumed = Callable[[int, int], None]
"""Stream and bytes: gives the guest credit."""


@functools.cache
def _threads() -> ThreadPoolExecutor:
    return started(LOGS_AT_ONCE, "log")


class LogStream:
    """A consumer (`cri.consumers.Consumer`): writes one of the container's streams to its log, and to the attached."""

    def __init__(self, feed: "LogFeed", name: str) -> None:
        self._feed, self._name = feed, name
        self._unwritten: list[Buffer] = []
        self._last: Buffer | None = None
        self._last_takers: tuple[object, ...] = ()
        self.give: Callable[[int], None] = lambda count: None
        self.followers: list[OutputQueue] = []
        """The attached clients; data is finished with when the slowest has it."""

    def feed(self, data: bytes, *, seq: int, end: bool) -> int:
        """Credit is given later: when the log has it, and who is attached."""
        self._feed.writer.feed(self._name, data, seq=seq, end=end)
        is_stuck = self._feed.writer.is_stuck
        readers = len(self.followers) + is_stuck
        if data and readers:
            self._pass_on(data, is_stuck=is_stuck)
        if is_stuck:
            self._feed.watch()
        if end:
            self.finish()
        return 0 if readers else len(data)

    def _pass_on(self, data: bytes, *, is_stuck: bool) -> None:
        """Pass data to all consumers, together with earlier data that none has taken yet."""
        takers, readers = (*self.followers, is_stuck), len(self.followers) + is_stuck
        if self._last is not None and self._last_takers == takers and self._last.grow(data, readers):
            return
        buffer = Buffer(data, readers, give_back=self.give)
        self._last, self._last_takers = buffer, takers
        for follower in self.followers:
            follower.put(buffer)
        if is_stuck:
            self._unwritten.append(buffer)

    def finish(self) -> None:
        """Tell the followers that the stream has ended."""
        for follower in self.followers:
            follower.finish()

    def writing(self) -> "asyncio.Task[None] | None":
        """The writer of the log, if there is a log."""
        return self._feed.task

    def commit(self) -> None:
        """Write the commit record, before the guest gets its acknowledgement."""
        self._feed.writer.commit()

    def settle(self) -> None:
        """All is written: the log has what it held back."""
        buffers, self._unwritten = self._unwritten, []
        for buffer in buffers:
            buffer.taken()


class LogFeed:
    """All streams of one container."""

    def __init__(self, writer: LogWriter, container_id: str) -> None:
        self.writer, self._container_id = writer, container_id
        self.streams = {name: LogStream(self, name) for name in ("stdout", "stderr")}
        self._timer: asyncio.TimerHandle | None = None
        self.task: asyncio.Task[None] | None = None
        self._fault = ""
        self._lock = asyncio.Lock()

    def stream(self, name: str, number: int, *, consumed: Consumed) -> LogStream:
        """The consumer of the stream `number`."""
        stream = self.streams[name]
        stream.give = lambda count: consumed(number, count)
        return stream

    def finish(self) -> None:
        """The process is gone: write unfinished lines."""
        try:
            self.writer.flush()
        except PodError as error:  # the record can't be written now, and the next daemon will write them again
            log.warning("container.log", extra={"container": self._container_id, "error": str(error)})
        for stream in self.streams.values():
            stream.finish()
        self.watch()

    def watch(self) -> None:
        """Write the output that the log holds in a thread, and retry until it is written or closed."""
        if self.writer.is_stuck and self._timer is None and self.task is None:
            self._begin()

    def when_written(self, then: Callable[[], None]) -> None:
        """Call `then`, which is idempotent, when a thread has written what came so far or has failed, or after
        WRITTEN_S; now when there is no thread."""
        if self.task is None:
            then()
        else:
            self.task.add_done_callback(lambda _: then())
            asyncio.get_running_loop().call_later(WRITTEN_S, then)

    async def written(self, limit_s: float) -> None:
        """Wait for that, not longer than `limit_s`."""
        if self.task is not None:
            await asyncio.wait({self.task}, timeout=limit_s)

    async def reopen(self) -> None:
        """Go on in a new file. Raises as `LiveContainer.reopen_log`."""
        # To the end, also when the caller is gone: the descriptor has to go somewhere.
        switch = asyncio.ensure_future(self._switch())
        switch.add_done_callback(lambda done: done.cancelled() or done.exception())
        await asyncio.shield(switch)

    async def _switch(self) -> None:
        async with self._lock:
            try:
                opened = await asyncio.to_thread(self.writer.open_file)
            except PodError as error:
                raise self.writer.refused(error) from None
            self.writer.take(opened)

    def _later(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(RETRY_S, self._begin)

    def _begin(self) -> None:
        self._timer = None
        if not self.writer.is_closed:
            self.task = asyncio.get_running_loop().create_task(self._write())

    async def _write(self) -> None:
        """Write all that is held, also what comes meanwhile, or as much as can be written now."""
        try:
            while self.writer.is_stuck and await self._write_some():
                pass
        except (PodError, OSError) as error:  # OSError: no descriptor for a batch
            self._warn(str(error))
        self.task = None
        if self.writer.is_stuck and not self.writer.is_closed:
            self._later()
        elif not self.writer.is_closed:
            self._fault = ""
            for stream in self.streams.values():
                stream.settle()

    async def _write_some(self) -> bool:
        """One batch, in a thread; false when it failed. What is not open yet is opened first. Raises PodError."""
        async with self._lock:
            if self.writer.lacks_file:
                await self._open()
            batch = self.writer.batch()
            if batch is None:
                return False
            self.writer.settle(await asyncio.get_running_loop().run_in_executor(_threads(), batch.write))
            if self.writer.is_closed:
                return False
            self.writer.commit()
        if self.writer.fault:
            self._warn(self.writer.fault)
        return not self.writer.fault

    async def _open(self) -> None:
        try:
            opened = await asyncio.to_thread(self.writer.open_file)
        except PodError as error:
            self.writer.note(error)
            raise
        self.writer.take(opened)

    def _warn(self, fault: str) -> None:
        """Log a fault when it is another one than the last, so that a full disk is not a line each second."""
        if fault != self._fault:
            log.warning("container.log", extra={"container": self._container_id, "error": fault})
        self._fault = fault
