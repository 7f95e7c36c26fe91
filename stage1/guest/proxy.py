# SPDX-License-Identifier: Apache-2.0
"""Lets several programs talk to one agent at once: owns the link, and serves `client.py` on a unix socket.

Called by stage1/rkt in a process of its own, which ends soon after its last client: nothing but the VM is resident. No
client is trusted less than another: all are root's.
"""

import _socket
import os
import select
import time
from collections.abc import Iterable
from typing import NamedTuple

from stage1.errors import PodError
from stage1.guest import frame
from stage1.guest.client import STREAMS, Cutter
from stage1.guest.codec import decode_request, encode, encode_event
from stage1.guest.connect import Factory
from stage1.guest.frame import Frame
from stage1.guest.link import DataSeen, EventSeen, HostLink, Incoming, LinkFault, ReplySeen
from stage1.guest.messages import Create, Exec, Signal, Stdio
from stage1.guest.wire import WireError

LINGER_S = 1.0
"""How long it waits for another client before it exits."""
PATIENCE_S = 30.0
"""How long the agent may be silent at first, for a guest that boots on a slow machine."""
_READ_BYTES = 65536
_BACKLOG_BYTES = 65536
_SIGKILL = 9


class _Running(NamedTuple):
    """An exec of a client's."""

    container: str
    exec: int


class _Credit:
    """Credit for `count` bytes of a stream, which the guest gets once all of the `readers` have taken them."""

    __slots__ = ("count", "readers", "stream")

    def __init__(self, stream: int, count: int, readers: int) -> None:
        self.stream, self.count, self.readers = stream, count, readers


class _Client:
    """One connection: what is to be written to it, and what the guest has not taken of it."""

    def __init__(self, sock: _socket.socket, base: int) -> None:
        self.sock, self.base, self.cutter = sock, base, Cutter()
        self.out = bytearray(frame.pack(frame.HELLO, stream=base))
        self.credits: list[_Credit] = []
        self.inputs: list[Frame] = []
        self.running: set[_Running] = set()
        self.follows: set[int] = set()

    def events(self) -> int:
        """The events to poll for: reading pauses while data is queued for the guest."""
        return (0 if self.inputs else select.POLLIN) | (select.POLLOUT if self.out else 0)


class Proxy:
    """`serve` until no client is left. `connect` makes connections to the agent, which knows `key`."""

    def __init__(self, listener: _socket.socket, connect: Factory, *, key: bytes, streams: Iterable[int] = ()) -> None:
        """`streams` are those of containers that run already: output without a reader is discarded, and credit is
        returned for it.
        """
        self._listener, self._connect = listener, connect
        self._link = HostLink(key, int.from_bytes(os.urandom(8), "little") | 1)
        for stream in streams:
            self._link.open_stream(stream)
        self._sock: _socket.socket | None = None
        self._pending = b""
        self._clients: dict[int, _Client] = {}
        self._asked: dict[int, tuple[_Client, int]] = {}
        self._next_base = int.from_bytes(os.urandom(3), "little") << 7 | 1 << 6
        self._idle_since = self._silent_since = time.monotonic()

    def serve(self) -> None:
        """Return when the last client has gone, or the VM; clients then see the end of their connection."""
        try:
            self._serve_all()
        finally:
            for client in self._clients.values():
                client.sock.close()
            if self._sock is not None:
                self._sock.close()

    def _serve_all(self) -> None:
        listener = self._listener
        listener.setblocking(False)
        while self._clients or time.monotonic() - self._idle_since < LINGER_S:
            if self._sock is None and not self._connect_agent():
                return
            for fd, events in self._poll():
                if fd == listener.fileno():
                    self._accept()
                elif fd in self._clients:
                    self._serve(self._clients[fd], events)
                elif not self._read_agent():
                    return
            self._settle()
            if not self._link.open and time.monotonic() - self._silent_since > PATIENCE_S:
                return
        self._write_agent()

    def _connect_agent(self) -> bool:
        """Connect to the agent, for as long as it may be booting."""
        self._sock = self._connect(self._silent_since + PATIENCE_S)
        if self._sock is None:
            return False
        self._sock.setblocking(False)
        self._link.connect(time.time_ns())
        self._pending = b""
        return True

    def _poll(self) -> list[tuple[int, int]]:
        assert self._sock is not None
        poll = select.poll()
        poll.register(self._listener.fileno(), select.POLLIN)
        poll.register(self._sock.fileno(), select.POLLIN | (select.POLLOUT if self._write_agent() else 0))
        for fd, client in self._clients.items():
            poll.register(fd, client.events())
        return poll.poll(LINGER_S * 1000)

    # The agent

    def _write_agent(self) -> bool:
        """Whether something is left to write."""
        self._pending += self._link.outgoing()
        try:
            while self._pending and self._sock is not None:
                self._pending = self._pending[self._sock.send(self._pending) :]
        except BlockingIOError:
            pass
        except OSError:
            self._pending = b""  # the reading side finds out
        return bool(self._pending)

    def _read_agent(self) -> bool:
        """False when the agent is gone."""
        assert self._sock is not None
        try:
            data = self._sock.recv(_READ_BYTES)
            items = self._link.receive(data) if data else None
        except BlockingIOError:
            return True
        except (OSError, LinkFault):
            items = None
        if items is None:
            self._sock.close()
            self._sock, self._link.open = None, False
            self._silent_since = time.monotonic() - PATIENCE_S + LINGER_S
            return True
        for item in items:
            self._on_item(item)
        return True

    def _on_item(self, item: Incoming) -> None:
        if isinstance(item, ReplySeen):
            client, number = self._asked.pop(item.id, (None, 0))
            if client is not None:
                client.out += frame.pack(frame.REPLY, encode(item.reply), stream=number)
        elif isinstance(item, DataSeen):
            self._on_data(item)
            self._link.settle(item.seq)
        elif isinstance(item, EventSeen):
            event = item.event
            owner = self._owner(event.exec)
            one = _Running(event.container, event.exec)
            if owner is not None and one in owner.running:  # a guest could tell of an end without end
                owner.running.remove(one)
                owner.out += frame.pack(frame.EVENT, encode_event(event))
            self._link.settle(item.seq)

    def _on_data(self, item: DataSeen) -> None:
        """Pass the data to all who want it; the slowest of them slows the sender, so that queues stay short."""
        owner = self._owner(item.stream)
        readers = [one for one in self._clients.values() if one is owner or item.stream in one.follows]
        for one in readers:
            one.out += frame.pack(frame.DATA, item.data, stream=item.stream, flags=frame.END if item.end else 0)
        credit = _Credit(item.stream, len(item.data), len(readers))
        for one in readers:
            one.credits.append(credit)
        if not readers:
            self._link.consumed(item.stream, len(item.data))

    def _give_credit(self, client: _Client) -> None:
        for credit in client.credits:
            credit.readers -= 1
            if not credit.readers:
                self._link.consumed(credit.stream, credit.count)
        client.credits.clear()

    def _owner(self, number: int) -> _Client | None:
        """The owner of that id, of a stream or an exec."""
        return next((one for one in self._clients.values() if one.base <= number < one.base + STREAMS), None)

    # The clients

    def _accept(self) -> None:
        try:
            number, _ = self._listener._accept()  # type: ignore[attr-defined]
        except BlockingIOError:
            return
        sock = _socket.socket(fileno=number)
        sock.setblocking(False)
        self._clients[number] = _Client(sock, self._next_base)
        self._next_base += STREAMS

    def _serve(self, client: _Client, events: int) -> None:
        try:
            if events & select.POLLOUT:
                del client.out[: client.sock.send(client.out)]
            if events & ~select.POLLOUT:
                data = client.sock.recv(_READ_BYTES)
                if not data:
                    raise EOFError
                for one in client.cutter.feed(data):
                    self._on_frame(client, one)
        except BlockingIOError:
            pass
        except (OSError, EOFError, ValueError, WireError, PodError):
            self._drop(client)

    def _on_frame(self, client: _Client, incoming: Frame) -> None:
        if incoming.kind == frame.DATA:
            client.inputs.append(incoming)
            return
        if incoming.kind == frame.CREDIT:
            client.follows.add(incoming.stream)
            return
        op = decode_request(incoming.payload)
        if incoming.kind != frame.REQUEST or op is None:
            raise ValueError("a client sent an invalid request")
        if isinstance(op, Exec):
            client.running.add(_Running(op.container, op.exec))
        if isinstance(op, Create):
            for stream in _streams(op.stdio):
                self._link.close_stream(stream)  # of a container of that name, before
        if isinstance(op, Create | Exec):
            for stream in _streams(op.stdio):
                self._link.open_stream(stream)
        self._asked[self._link.request(op)] = (client, incoming.stream)

    def _settle(self) -> None:
        """Pass on what the guest takes now, and pay for what the clients have taken."""
        for client in list(self._clients.values()):
            while client.inputs:
                first = client.inputs[0]
                end = bool(first.flags & frame.END)
                done = self._link.send_data(first.stream, first.payload, end=end)
                if done < len(first.payload):
                    client.inputs[0] = first._replace(payload=first.payload[done:])
                    break
                client.inputs.pop(0)
            if len(client.out) < _BACKLOG_BYTES:
                self._give_credit(client)

    def _drop(self, client: _Client) -> None:
        """End the processes that the client has started and does not wait for any more."""
        del self._clients[client.sock.fileno()]
        client.sock.close()
        self._give_credit(client)  # otherwise others attached to the same stream would get no more
        for one in client.running:
            self._link.request(Signal(one.container, one.exec, _SIGKILL, all=True))
        for stream in range(client.base, client.base + STREAMS):
            self._link.close_stream(stream)
        self._asked = {number: asked for number, asked in self._asked.items() if asked[0] is not client}
        self._idle_since = time.monotonic()


def _streams(stdio: Stdio | None) -> list[int]:
    return [one for one in stdio[:3] if one] if stdio else []
