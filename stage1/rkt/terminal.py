# SPDX-License-Identifier: Apache-2.0
"""Joins our standard streams with those of a process in the guest, until it ends. Called by enter and attach.

A terminal is raw meanwhile, and as before afterwards, however this ends; its size goes along.
"""

import os
import select
import signal
import termios
from typing import NamedTuple

from stage1.errors import NotExecutable, PodError, command_error
from stage1.guest import frame
from stage1.guest.client import Client, exit_of
from stage1.guest.codec import encode_request
from stage1.guest.frame import MAX_DATA
from stage1.guest.messages import Resize, Stdio

_ERROR_BYTES = 5000
_CRUNS = ("exec:", "exec container process")
_REASONS = ("Exec format error", "No such file or directory", "Permission denied")
_IFLAG, _OFLAG, _CFLAG, _LFLAG, _CC = 0, 1, 2, 3, 6


class Joined(NamedTuple):
    """The process: its container and exec number, 0 for the container's own, and the streams of it that are ours.

    Of a container's own process we are not the only reader, and our end of input is not its.
    """

    container: str
    exec: int
    stdio: Stdio


def size() -> tuple[int, int]:
    """Columns and rows of the terminal that we write to; 0 where it is none."""
    try:
        return tuple(os.get_terminal_size(1))  # type: ignore[return-value]
    except OSError:
        return 0, 0


class raw:
    """`with raw():` our terminal passes everything on as it is typed; where standard input is none, nothing happens."""

    def __init__(self, enabled: bool = True) -> None:
        """Without `wanted` nothing happens either."""
        self._enabled = enabled

    def __enter__(self) -> None:
        self._before = termios.tcgetattr(0) if self._enabled and os.isatty(0) else None
        if self._before is not None:
            now = list(self._before)
            now[_IFLAG], now[_OFLAG], now[_LFLAG] = 0, 0, 0
            now[_CFLAG] |= termios.CS8
            now[_CC] = list(now[_CC])
            now[_CC][termios.VMIN], now[_CC][termios.VTIME] = 1, 0
            termios.tcsetattr(0, termios.TCSADRAIN, now)

    def __exit__(self, *_: object) -> None:
        if self._before is not None:
            termios.tcsetattr(0, termios.TCSANOW, self._before)


def join(client: Client, process: Joined) -> int:
    """Move bytes until the exec has ended, and return its exit code; or until nothing more comes of a container, and
    return 0. Raises VmFailed when the VM ends before.
    """
    streams = _Streams(client, process)
    streams.take()
    with _sizes(client, process) if process.stdio.tty else _nothing():
        while streams.code is None:
            streams.step()
    return exec_code(streams.code, streams.error_output)


def exec_code(code: int, error_output: bytes) -> int:
    """The code as in a shell. What the kernel could not execute ends with 126, with systemd in the guest with 1, after
    a line of crun's alone, which tells whether something is missing.
    """
    line = error_output.decode("utf-8", "replace").strip()
    is_cruns = line.startswith(_CRUNS) and line.endswith(_REASONS) and len(line.splitlines()) == 1
    return command_error(line).exit_code if is_cruns and code in (1, NotExecutable.exit_code) else code


class _nothing:
    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        pass


class _sizes:
    """While it is open, changes of our terminal's size are sent to the guest."""

    def __init__(self, client: Client, process: Joined) -> None:
        self._client, self._process = client, process

    def __enter__(self) -> None:
        self._before = signal.signal(signal.SIGWINCH, self._changed)

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGWINCH, self._before)

    def _changed(self, *_: object) -> None:
        width, height = size()
        change = Resize(self._process.container, self._process.exec, width, height)
        self._client.send(frame.REQUEST, encode_request(change), stream=0)


class _Streams:
    def __init__(self, client: Client, process: Joined) -> None:
        self.code: int | None = None
        self.error_output = b""
        """The beginning of all that came."""
        self._client, self._process = client, process
        stdio = process.stdio
        self._input = stdio.stdin
        self._to = {stream: fd for stream, fd in ((stdio.stdout, 1), (stdio.stderr, 2)) if stream}

    def step(self) -> None:
        """Wait for something, and move it. What has come before must have been taken."""
        client, sent = self._client, self._client.flush()
        poll = select.poll()
        poll.register(client.fileno(), select.POLLIN | (0 if sent else select.POLLOUT))
        if self._input and sent:
            poll.register(0, select.POLLIN)
        ready = dict(poll.poll())
        if ready.get(client.fileno(), 0) & ~select.POLLOUT:
            self.take()
        if 0 in ready:
            self._give()

    def take(self) -> None:
        """Move what has come; blocks for nothing but our own output."""
        for one in self._client.pump():
            ended = exit_of(one)
            if ended is not None and ended.exec == self._process.exec:
                self.code = ended.exit_code
            elif one.kind == frame.DATA and one.stream in self._to:
                self.error_output += one.payload[: _ERROR_BYTES - len(self.error_output)]
                is_read = _write(self._to[one.stream], one.payload)
                if not is_read and self._process.exec:
                    self._client.send(frame.DATA, stream=one.stream, end=True)  # the process gets SIGPIPE, as here
                if one.flags & frame.END or not (is_read or self._process.stdio.tty):
                    del self._to[one.stream]
        self._note_end()

    def _note_end(self) -> None:
        if not self._process.exec and not self._to and (not self._input or self._process.stdio.stdout):
            self.code = 0

    def _give(self) -> None:
        try:
            data = os.read(0, MAX_DATA)
        except OSError:
            data = b""
        if data or self._process.exec:
            self._client.send(frame.DATA, data, stream=self._input, end=not data)
        if not data:
            self._input = 0
            self._note_end()


def _write(fd: int, data: bytes) -> bool:
    """False if it has no reader: then the data is discarded."""
    try:
        while data:
            data = data[os.write(fd, data) :]
    except BlockingIOError as error:
        raise PodError(
            "standard output is non-blocking (O_NONBLOCK) and would lose bytes; pass a blocking one"
        ) from error
    except OSError:
        return False
    return True
