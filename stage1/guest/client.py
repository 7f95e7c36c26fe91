# SPDX-License-Identifier: Apache-2.0
"""The client of short-lived programs, for an agent that has other clients as well: frames of the link, without numbers
and markers, over a unix socket to the proxy (`proxy.py`), which owns the link itself.

Used by rkt's entry points. One thread. Ends of connections are ends of what was asked for: the proxy kills the execs
of a client that is gone.
"""

from __future__ import annotations

import _socket
import select
import time
from collections import deque
from collections.abc import Iterable

from stage1.errors import TimedOut, VmFailed
from stage1.guest import frame
from stage1.guest.codec import decode_event, decode_reply, encode_request
from stage1.guest.frame import Frame
from stage1.guest.messages import Exited, Op, Reply, check_reply

STREAMS = 16
"""Ids that each client has for its streams and execs: its base, and those after it."""
_READ_BYTES = 65536


class Cutter:
    """Cuts bytes into frames; there is no noise between them."""

    def __init__(self) -> None:
        self._bytes = bytearray()

    def feed(self, data: bytes) -> Iterable[Frame]:
        """The whole frames that there are now. Raises ValueError when there is something else."""
        self._bytes += data
        while (one := frame.cut(self._bytes)) is not None:
            yield one


class Client:
    """A connection to the proxy; a context manager, or close it. `base` is the first of the client's own ids."""

    def __init__(self, sock: _socket.socket, *, until: float | None = None) -> None:
        """Wait for the proxy until that moment (monotonic; None: without a limit). Raises TimedOut, VmFailed."""
        sock.setblocking(False)
        self._sock, self._cutter, self._number = sock, Cutter(), 0
        self._unsent = bytearray()
        self._seen: deque[Frame] = deque()
        self._over_at: float | None = None
        self.base = self._first(frame.HELLO, 0, until=until).stream

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self._sock.close()

    def call(self, op: Op, timeout_s: float | None) -> Reply:
        """Send a request and wait for the reply; None: without a limit.

        Raises what the reply's code means (messages.check_reply), TimedOut, VmFailed when the VM has ended.
        """
        self._number += 1
        self.send(frame.REQUEST, encode_request(op), stream=self._number)
        begun = time.monotonic()
        moments = [one for one in (timeout_s and begun + timeout_s, self._over_at) if one is not None]
        until = min(moments, default=None)
        try:
            reply = self._first(frame.REPLY, self._number, until=until)
        except TimedOut:
            waited_s = round(time.monotonic() - begun, 1)
            raise TimedOut(f"the guest's agent did not answer {type(op).__name__} within {waited_s:g} s") from None
        return check_reply(decode_reply(reply.payload), op)

    def limit(self, limit_s: float) -> None:
        """All calls from now on end within that time together; a later `limit` replaces this one."""
        self._over_at = time.monotonic() + limit_s

    def send(self, kind: int, payload: bytes = b"", *, stream: int, end: bool = False) -> None:
        """Send one frame, or what fits of it: the rest is for `flush`."""
        self._unsent += frame.pack(kind, payload, stream=stream, flags=frame.END if end else 0)
        self.flush()

    def flush(self) -> bool:
        """Go on sending; true when all is sent. Only then should more be sent."""
        try:
            while self._unsent:
                del self._unsent[: self._sock.send(self._unsent)]
        except BlockingIOError:
            pass
        except OSError:
            self._unsent.clear()  # the reading side finds out
        return not self._unsent

    def follow(self, stream: int) -> None:
        """Get what comes on a stream that is not our own, from now on."""
        self.send(frame.CREDIT, stream=stream)

    def fileno(self) -> int:
        """The descriptor for poll: readable when `pump` has something to do. Data that came with a reply was read
        with it, so call `pump` first.
        """
        return self._sock.fileno()

    def pump(self) -> list[Frame]:
        """DATA and EVENT frames that have come; blocks for nothing. Raises VmFailed when the VM has ended."""
        if not self._seen:
            self._receive()
        frames = [one for one in self._seen if one.kind in (frame.DATA, frame.EVENT)]
        self._seen.clear()
        return frames

    def _first(self, kind: int, stream: int, *, until: float | None) -> Frame:
        while True:
            for one in self._seen:
                if one.kind == kind and (one.stream == stream or kind == frame.HELLO):
                    self._seen.remove(one)
                    return one
            poll = select.poll()
            poll.register(self._sock.fileno(), select.POLLIN | (0 if self.flush() else select.POLLOUT))
            if not poll.poll(None if until is None else max(0.0, until - time.monotonic()) * 1000):
                raise TimedOut("the agent did not answer")
            self._receive()

    def _receive(self) -> None:
        try:
            data = self._sock.recv(_READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            raise VmFailed("the link to the pod's agent was closed: the pod has ended; if it has not, stop it")
        self._seen.extend(self._cutter.feed(data))


def exit_of(event: Frame) -> Exited | None:
    """The exit that an EVENT frame reports, if it is one."""
    return decode_event(event.payload) if event.kind == frame.EVENT else None
