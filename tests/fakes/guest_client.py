# SPDX-License-Identifier: Apache-2.0
"""A blocking client of the guest's agent: a socket, a clock and a HostLink. For tests of the agent and of fake guests.

One thread at a time. It reconnects and resumes by itself as long as it has a factory of sockets.
"""

import _socket
import os
import select
import time
from collections import deque
from collections.abc import Callable

from stage1.errors import TimedOut, VmFailed
from stage1.guest.connect import RETRY_S
from stage1.guest.link import DataSeen, EventSeen, HostLink, Incoming, LinkFault, ReplySeen
from stage1.guest.messages import Hello, Op, Reply, check_reply

Factory = Callable[[float], _socket.socket | None]

READ_BYTES = 256 * 1024
POLL_S = 0.2  # between checks that the VM lives


def accept_factory(listener: _socket.socket) -> Factory:
    """Return a factory that accepts the guest's next connection on `listener` (vsock), which stays yours."""

    def accept(until: float) -> _socket.socket | None:
        wait_ms = max(0, int((until - time.monotonic()) * 1000))
        poll = select.poll()
        poll.register(listener.fileno(), select.POLLIN)
        if not poll.poll(wait_ms):
            return None
        number, _ = listener._accept()  # type: ignore[attr-defined]
        return _socket.socket(fileno=number)

    return accept


class GuestClient:
    """One conversation with an agent. Close it, or use it as a context manager.

    `connection` is a factory (see above) or a connected socket, which then can't be replaced when it breaks.
    `key` and `epoch` as for HostLink; 0 is a new, random epoch. `link` is there for streams: open_stream,
    credit_of, ...
    """

    def __init__(self, connection: _socket.socket | Factory, key: bytes, epoch: int = 0) -> None:
        self.link = HostLink(key, epoch or int.from_bytes(os.urandom(8), "little") | 1)
        self._factory: Factory | None = None
        self._socket: _socket.socket | None = None
        if isinstance(connection, _socket.socket):
            self._attach(connection)
        else:
            self._factory = connection
        self._pending = b""  # of outgoing(), not yet taken by the socket
        self._queue: deque[Incoming] = deque()
        self._alive: Callable[[], bool] = lambda: True

    def __enter__(self) -> "GuestClient":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; the guest keeps what was not acknowledged for the next client."""
        self._factory = None
        self._detach()

    def drop(self) -> None:
        """Drop the connection; with a factory the next call or pump makes a new one and resumes."""
        self._detach()

    def hello(self, deadline_s: float, alive: Callable[[], bool] = lambda: True) -> Hello:
        """Wait until the guest has answered and return its Hello.

        `alive` tells whether the VM's process lives; it is asked a few times a second, here and later. Raises
        VmFailed (the caller knows the console's last lines) when it does not or when `deadline_s` seconds are
        over; LinkFault.
        """
        self._alive = alive
        until = time.monotonic() + deadline_s
        while not self.link.open:
            if time.monotonic() >= until:
                raise VmFailed(f"the guest's agent said nothing within {deadline_s:g} s")
            self._step(until)
        assert self.link.hello is not None
        return self.link.hello

    def call(self, op: Op, timeout_s: float = 30.0) -> Reply:
        """Send a request and return its Reply. What else arrives is kept for `pump`.

        Raises what the reply's code means (messages.check_reply), TimedOut after `timeout_s`, VmFailed,
        LinkFault.
        """
        until = time.monotonic() + timeout_s
        number = self.link.request(op)
        while True:
            for item in self._step(until):
                if isinstance(item, ReplySeen) and item.id == number:
                    return check_reply(item.reply, op)
            if time.monotonic() >= until:
                self.link.forget(number)
                raise TimedOut(f"the guest's agent did not answer {type(op).__name__} within {timeout_s:g} s")

    def pump(self, timeout_s: float) -> list[Incoming]:
        """Return what has arrived; wait at most `timeout_s` for something. Raises VmFailed, LinkFault.

        Only DataSeen and EventSeen show up here; give each to `done` when it is safe.
        """
        until = time.monotonic() + timeout_s
        while not self._queue:
            self._step(until)
            if time.monotonic() >= until:
                break
        items = list(self._queue)
        self._queue.clear()
        return items

    def done(self, item: Incoming) -> None:
        """Acknowledge an item and give its credit back; the guest hears of it with the next call or pump."""
        if isinstance(item, DataSeen):
            self.link.consumed(item.stream, len(item.data))
        if isinstance(item, DataSeen | EventSeen):
            self.link.settle(item.seq)

    def open_stream(self, stream: int) -> None:
        """Expect data on `stream`, or prepare to send there (HostLink.open_stream)."""
        self.link.open_stream(stream)

    def send_data(self, stream: int, data: bytes, *, end: bool = False) -> int:
        """Send as much as credit allows and return that many bytes (HostLink.send_data)."""
        count = self.link.send_data(stream, data, end=end)
        if self._socket is not None:
            self._write(self._socket)
        return count

    def flush(self, timeout_s: float) -> None:
        """Write what is due, acknowledgements above all, before a `close`. What arrives is for `pump`."""
        until = time.monotonic() + timeout_s
        while self._socket is not None and self._write(self._socket) and time.monotonic() < until:
            self._step(until)

    # The connection

    def _attach(self, sock: _socket.socket) -> None:
        sock.setblocking(False)
        self._socket, self._pending = sock, b""
        self.link.connect(time.time_ns())

    def _detach(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        self.link.open = False

    def _step(self, until: float) -> list[Incoming]:
        """Move bytes once, at most until then; queue and return what arrived."""
        until = min(until, time.monotonic() + POLL_S)
        sock = self._socket or self._connect(until)
        if sock is None:
            return []
        poll = select.poll()
        poll.register(sock.fileno(), select.POLLIN | (select.POLLOUT if self._write(sock) else 0))
        ready = poll.poll(max(0.0, until - time.monotonic()) * 1000)
        if not ready:
            self._poll()
        elif ready[0][1] & ~select.POLLOUT:
            return self._read(sock)
        return []

    def _poll(self) -> None:
        if not self._alive():
            raise VmFailed("the VM ended")

    def _connect(self, until: float) -> _socket.socket | None:
        self._poll()
        if self._factory is None:
            raise VmFailed("the connection to the guest's agent broke")
        sock = self._factory(until)
        if sock is not None:
            self._attach(sock)
        return sock

    def _write(self, sock: _socket.socket) -> bool:
        """Write what the socket takes; return whether something is left."""
        self._pending += self.link.outgoing()
        try:
            while self._pending:
                self._pending = self._pending[sock.send(self._pending) :]
        except BlockingIOError:
            pass
        except OSError:  # the reading side finds out, after the bytes that still arrived
            self._pending = b""
        return bool(self._pending)

    def _read(self, sock: _socket.socket) -> list[Incoming]:
        try:
            data = sock.recv(READ_BYTES)
        except BlockingIOError:
            return []
        except OSError:
            data = b""
        if not data:
            self._detach()
            time.sleep(RETRY_S)  # a server that hangs up at once must not make us spin
            return []
        try:
            items = self.link.receive(data)
        except LinkFault:
            self._detach()
            raise
        self._queue.extend(item for item in items if isinstance(item, DataSeen | EventSeen))
        self._write(sock)
        return items
