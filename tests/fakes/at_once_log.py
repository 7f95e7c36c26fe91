# SPDX-License-Identifier: Apache-2.0
"""A log that is written by who feeds it, and not by a thread a moment later: for tests of what is in the file."""

from cri.logs.writer import LogWriter


class AtOnce(LogWriter):
    """It writes what comes, unless something is held already; blocks."""

    def feed(self, stream: str, data: bytes, *, seq: int, end: bool = False, unix_ns: int | None = None) -> None:
        was_stuck = self.is_stuck
        super().feed(stream, data, seq=seq, end=end, unix_ns=unix_ns)
        if not was_stuck:
            self.retry()

    def flush(self) -> None:
        super().flush()
        self.retry()
        self.commit()
