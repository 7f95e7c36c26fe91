# SPDX-License-Identifier: Apache-2.0
"""The standard streams of `clearpod run` and `exec`: output that is as fast as its reader, and the terminal.

`Output` must not block: while a reader is slow, signals still have to reach the container. Bytes that are not written
yet are not returned as credit, so at most one window of the link (docs/dev/link.md) is in memory.
"""

import asyncio
import os
import signal
import termios
import tty
from collections.abc import AsyncIterator, Callable
from types import TracebackType
from typing import Protocol

from stage1.errors import KernelError

PIPE_BUF = 4096
"""How many bytes can be written without blocking to a pipe that poll reports as writable. The descriptor is shared
with other processes, so it must not be made non-blocking.
"""
NAMES = {1: "standard output", 2: "standard error"}


class Consumed(Protocol):
    """`Agent.consumed`: gives credit back for so many bytes of the stream."""

    def __call__(self, stream: int, count: int) -> None: ...


class Output:
    """A consumer (`cri.consumers.Consumer`) of `stream`. `first` is called at its first byte.

    `fault` gets an exception when the descriptor takes nothing any more: BrokenPipeError when its reader went
    away, KernelError otherwise. Later data is dropped then.
    """

    def __init__(self, descriptor: int, *, stream: int, consumed: Consumed, first: Callable[[], None]) -> None:
        self._descriptor, self._stream, self._consumed, self._first = descriptor, stream, consumed, first
        self._is_silent = True
        self._waiting = bytearray()
        self._idle = asyncio.Event()
        self._idle.set()
        self.fault: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def feed(self, data: bytes, *, seq: int, end: bool) -> int:
        """Keep it and write it when the reader is ready; a file always is."""
        if self.fault.done() or not data:
            return len(data)
        if self._is_silent:
            self._is_silent = False
            self._first()
        self._waiting += data
        if self._idle.is_set():
            self._begin()
        return 0

    def writing(self) -> None:
        """Return None: nothing is written in the background."""

    def commit(self) -> None:
        """Do nothing: output of a command is not durable."""

    async def drained(self) -> None:
        """Everything is written, or nothing can be written any more."""
        await self._idle.wait()

    def close(self) -> None:
        """Stop writing; what is queued is dropped."""
        if not self._idle.is_set():
            asyncio.get_running_loop().remove_writer(self._descriptor)
            self._idle.set()

    def _begin(self) -> None:
        self._idle.clear()
        loop = asyncio.get_running_loop()
        try:
            loop.add_writer(self._descriptor, self._write)
        except PermissionError:  # a regular file, which is always ready
            loop.call_soon(self._write_all)

    def _write(self) -> None:
        """The reader is ready: write a piece. Called again as long as there is one."""
        try:
            count = os.write(self._descriptor, self._waiting[:PIPE_BUF])
        except BlockingIOError:  # another process has made it non-blocking, and poll was too optimistic
            return
        except OSError as error:
            self._fail(error)
            return
        del self._waiting[:count]
        self._consumed(self._stream, count)
        if not self._waiting:
            self.close()

    def _write_all(self) -> None:
        while self._waiting and not self.fault.done():
            self._write()
        self._idle.set()

    def _fail(self, error: OSError) -> None:
        what = NAMES.get(self._descriptor, f"descriptor {self._descriptor}")
        gone = isinstance(error, BrokenPipeError)
        self.fault.set_exception(error if gone else KernelError("write", error.errno or 0, what))
        self.fault.exception()  # mark it as retrieved: there may be no waiter any more
        self._waiting.clear()
        self.close()


class Terminal:
    """A context: when it `is_interactive`, and standard input being a terminal, every key goes to the container."""

    def __init__(self, is_interactive: bool) -> None:
        self._is_ours = is_interactive and os.isatty(0)
        self._before: list[int | list[bytes | int]] = []

    def __enter__(self) -> "Terminal":
        if self._is_ours:
            self._before = termios.tcgetattr(0)
            tty.setraw(0)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._is_ours:
            termios.tcsetattr(0, termios.TCSADRAIN, self._before)

    async def sizes(self) -> AsyncIterator[tuple[int, int]]:
        """(columns, lines) now and after each change; nothing when there is no terminal."""
        if not self._is_ours:
            return
        loop, changed = asyncio.get_running_loop(), asyncio.Event()
        loop.add_signal_handler(signal.SIGWINCH, changed.set)
        while True:
            changed.clear()
            yield os.get_terminal_size(0)
            await changed.wait()
