# SPDX-License-Identifier: Apache-2.0
"""From the link to a container's log: gives the guest credit as output is written, and tries again while it can't be.

Owned by the container. A log that can't be written slows its container, and loses nothing: `cri.logs` holds what came.
"""

import asyncio
import logging
from collections.abc import Callable

from cri.logs import LogWriter
from stage1.errors import PodError

log = logging.getLogger("clearpod.container")

RETRY_S = 1.0

Consumed = Callable[[int, int], None]
"""Stream and bytes: gives the guest credit."""


class LogStream:
    """A consumer (`cri.agent.Consumer`) that writes one of the container's streams to its log."""

    def __init__(self, feed: "LogFeed", name: str, *, give: Callable[[int], None]) -> None:
        self._feed, self._name, self._give = feed, name, give
        self._owed = 0

    def feed(self, data: bytes, *, seq: int, end: bool) -> int:
        """Done with at once, when it is in the page cache; else credit is given when it is."""
        self._feed.writer.feed(self._name, data, seq=seq, end=end)
        if not self._feed.writer.is_stuck:
            return len(data)
        self._owed += len(data)
        self._feed.watch()
        return 0

    def commit(self) -> None:
        """Before the acknowledgement."""
        self._feed.writer.commit()

    def settle(self) -> None:
        """All is written: give the credit that was held back."""
        owed, self._owed = self._owed, 0
        if owed:
            self._give(owed)


class LogFeed:
    """All streams of one container."""

    def __init__(self, writer: LogWriter, container_id: str) -> None:
        self.writer, self._container_id = writer, container_id
        self._streams: list[LogStream] = []
        self._timer: asyncio.TimerHandle | None = None

    def stream(self, name: str, number: int, *, consumed: Consumed) -> LogStream:
        """The consumer of the stream `number`."""
        made = LogStream(self, name, give=lambda count: consumed(number, count))
        self._streams.append(made)
        return made

    def finish(self) -> None:
        """The process is gone: write unfinished lines."""
        try:
            self.writer.flush()
        except PodError as error:  # the record can't be written now, and the next daemon will write them again
            log.warning("container.log", extra={"container": self._container_id, "error": str(error)})
        self.watch()

    def watch(self) -> None:
        """If the log is stuck, try again until it is not, or until it is closed."""
        if self.writer.is_stuck and self._timer is None:
            log.warning("container.log", extra={"container": self._container_id, "error": self.writer.fault})
            self._later()

    def _later(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(RETRY_S, self._retry)

    def _retry(self) -> None:
        self._timer = None
        if self.writer.is_closed:
            return None
        try:
            is_mended = self.writer.retry()
            self.writer.commit()
        except PodError as error:
            log.warning("container.log", extra={"container": self._container_id, "error": str(error)})
            is_mended = False
        if not is_mended:
            return self._later()
        for stream in self._streams:
            stream.settle()
        return None
