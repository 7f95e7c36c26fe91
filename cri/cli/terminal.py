# SPDX-License-Identifier: Apache-2.0
"""The terminal of `clearpod run --tty`: in raw mode while the container has it, and restored afterwards."""

import asyncio
import os
import signal
import termios
import tty
from collections.abc import AsyncIterator
from types import TracebackType


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
