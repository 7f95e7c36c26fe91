# SPDX-License-Identifier: Apache-2.0
"""The streams of a program in a container, over the daemon's streaming server, joined to ours. Used by `exec` and `cp`.

A client of Kubernetes' WebSocket protocol (docs/dev/cri.md). Nothing here waits for one direction alone: a program that
does not read its input still gets its output read.
"""

import json
import os
import select
import signal
import socket
from types import FrameType, TracebackType
from typing import NamedTuple
from urllib.parse import urlsplit

from wsproto import ConnectionType, WSConnection
from wsproto import events as ws
from wsproto.utilities import ProtocolError

from cri.streaming import formats
from stage1.errors import PodError, Unavailable

PROTOCOL = "v5.channel.k8s.io"
READ_BYTES = 32768
MOST_PENDING_BYTES = 1 << 18
_CONNECT_S = 10.0


class Files(NamedTuple):
    """Descriptors of ours for the program's streams."""

    stdin: int = 0
    stdout: int = 1
    stderr: int = 2


STANDARD = Files()


class Remote:
    """The program that `url` stands for; a context."""

    def __init__(self, url: str, files: Files = STANDARD) -> None:
        self._stdin, self._outputs = files.stdin, {formats.STDOUT: files.stdout, formats.STDERR: files.stderr}
        where = urlsplit(url)
        try:
            self._socket = socket.create_connection((where.hostname or "", where.port or 80), _CONNECT_S)
        except OSError as error:
            raise Unavailable(f"the daemon's streaming server at {where.netloc} can't be reached: {error}") from None
        self._ws = WSConnection(ConnectionType.CLIENT)
        self._pending = self._ws.send(ws.Request(host=where.netloc, target=where.path, subprotocols=[PROTOCOL]))
        self._status = bytearray()
        self._is_open, self._is_over = False, False
        self._piece = formats.Channels(has_close=True)

    def __enter__(self) -> "Remote":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    def run(self, *, has_input: bool, has_terminal: bool) -> bytes:
        """Join our streams to the program's until it has ended; the text of the error channel. Raises PodError."""
        self._socket.setblocking(False)
        resized, wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        before = signal.signal(signal.SIGWINCH, _Waker(wake)) if has_terminal else None
        if has_terminal:
            os.write(wake, b"!")
        try:
            while not self._is_over:
                has_input = self._exchange(has_input, resized)
        finally:
            if has_terminal:
                signal.signal(signal.SIGWINCH, before)
            os.close(resized)
            os.close(wake)
        return bytes(self._status)

    def _exchange(self, has_input: bool, resized: int) -> bool:
        """One wait; whether there is still input to send."""
        takes_input = has_input and self._is_open and len(self._pending) < MOST_PENDING_BYTES
        wire = self._socket.fileno()
        reads = [wire, *([self._stdin] if takes_input else []), *([resized] if self._is_open else [])]
        ready, writable, _ = select.select(reads, [wire] if self._pending else [], [])
        if writable:
            self._pending = self._pending[self._send() :]
        if wire in ready:
            self._receive()
        if resized in ready:
            os.read(resized, 4096)
            self._tell_size()
        if self._stdin in ready and not self._is_over:
            has_input = self._feed()
        return has_input

    def _send(self) -> int:
        try:
            return self._socket.send(self._pending)
        except BlockingIOError:
            return 0
        except OSError:
            self._is_over = True
            return len(self._pending)

    def _feed(self) -> bool:
        data = os.read(self._stdin, READ_BYTES)
        message = bytes([formats.STDIN]) + data if data else bytes([formats.CLOSE, formats.STDIN])
        self._queue(message)
        return bool(data)

    def _queue(self, message: bytes) -> None:
        self._pending += self._ws.send(ws.BytesMessage(data=message))

    def _tell_size(self) -> None:
        try:
            size = os.get_terminal_size(0)
        except OSError:
            return
        self._queue(bytes([formats.RESIZE]) + json.dumps({"Width": size.columns, "Height": size.lines}).encode())

    def _receive(self) -> None:
        try:
            data = self._socket.recv(READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        try:
            self._ws.receive_data(data or None)
            for event in self._ws.events():
                self._take(event)
        except (ProtocolError, formats.ChannelFault) as error:
            raise PodError(f"the daemon's streaming server broke the protocol: {error}") from None
        self._is_over = self._is_over or not data

    def _take(self, event: ws.Event) -> None:
        if isinstance(event, ws.AcceptConnection):
            self._is_open = True
        elif isinstance(event, ws.RejectConnection | ws.RejectData):
            raise PodError("the daemon's streaming server refused the connection")
        elif isinstance(event, ws.BytesMessage):
            for piece in self._piece.receive(bytes(event.data), message_ends=event.message_finished):
                self._write(piece)
        elif isinstance(event, ws.Ping):
            self._pending += self._ws.send(event.response())
        elif isinstance(event, ws.CloseConnection):
            self._is_over = True

    def _write(self, piece: formats.Piece) -> None:
        if piece.channel == formats.ERROR:
            self._status += piece.data
            return
        data = piece.data
        while data and piece.channel in self._outputs:
            data = data[os.write(self._outputs[piece.channel], data) :]


class _Waker:
    """A signal handler that makes the descriptor `wake` readable at its other end."""

    def __init__(self, wake: int) -> None:
        self._wake = wake

    def __call__(self, number: int, frame: FrameType | None) -> None:
        try:
            os.write(self._wake, b"!")
        except BlockingIOError:
            pass  # it will be read in a moment anyway
