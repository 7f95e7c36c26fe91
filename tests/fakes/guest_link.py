# SPDX-License-Identifier: Apache-2.0
"""The guest's end of the link without I/O, written from docs/dev/link.md to be the other half of HostLink in
tests.

Used by the fake guest and by the property test of the link. It trusts the host and raises AssertionError
where a host breaks the rules. The real one is C (images/agent).
"""

from collections import deque
from typing import NamedTuple

from stage1.guest import codec
from stage1.guest import frame as f
from stage1.guest.frame import Frame, Splitter
from stage1.guest.messages import Exited, Hello, Op, Reply
from stage1.guest.wire import WireError


class Asked(NamedTuple):
    """Request `id`; `op` is None when it can't be read."""

    id: int
    op: Op | None


class Input(NamedTuple):
    """Data of the host on a stream."""

    stream: int
    data: bytes
    end: bool


class EpochBegan(NamedTuple):
    """Another host process is there: its predecessor's execs are to be killed."""


class GuestLink:
    """`boot` is what the guest says of itself in every HELLO. `connected` and `disconnected` come from the
    transport.

    A transport that does not tell (a serial port whose host is back at once) calls neither: the key in the
    stream does.
    """

    def __init__(self, boot: Hello) -> None:
        self.open, self.epoch = False, 0
        self._boot, self._key = boot, b""
        self._split = Splitter(f.START)
        self._out: list[bytes] = []
        self._seq = self._received = self._acknowledged = 0
        self._ring: deque[tuple[int, int, bytes]] = deque()  # seq, stream of DATA or 0, frame
        self._ring_bytes = 0
        self._credit: dict[int, int] = {}
        self._unacknowledged: dict[int, int] = {}

    def connected(self) -> None:
        """A new connection: what was half received or not yet written is gone."""
        self._split.restart(self._key or f.START)
        self.open = False
        self._out.clear()

    disconnected = connected

    def receive(self, data: bytes) -> list[Asked | Input | EpochBegan]:
        """Take bytes of the host, return what they say."""
        items: list[Asked | Input | EpochBegan] = []
        self._split.feed(data)
        while (frame := self._split.take()) is not None:
            self._on_frame(frame, items)
        if self._split.lost:
            self.open = False
        return items

    def outgoing(self) -> bytes:
        """Return the bytes to write now."""
        if self.open and self._received > self._acknowledged:
            self._acknowledged = self._received
            self._out.append(f.pack(f.ACK, seq=self._received))
        out = b"".join(self._out)
        self._out.clear()
        return out

    def reply(self, request: int, reply: Reply) -> None:
        """Answer a request."""
        self._send(f.REPLY, codec.encode(reply), stream=request)

    def event(self, what: Exited) -> None:
        """Say what happened."""
        self._send(f.EVENT, codec.encode_event(what))

    def open_stream(self, stream: int) -> None:
        """Begin to use a stream, in whichever direction."""
        if stream:
            self._credit[stream], self._unacknowledged[stream] = f.WINDOW, 0

    def sendable(self, stream: int) -> int:
        """How many bytes `send` may be given now: credit, and space in the ring."""
        return max(0, min(self._credit[stream], f.RING - self._ring_bytes, f.MAX_DATA))

    def send(self, stream: int, data: bytes, *, end: bool = False) -> None:
        """Send output, at most `sendable` bytes."""
        self._credit[stream] -= len(data)
        self._send(f.DATA, data, stream=stream, flags=f.END if end else 0)

    def consumed(self, stream: int, count: int) -> None:
        """Give the host credit."""
        self._unacknowledged[stream] += count
        if self._unacknowledged[stream] >= 16384:
            self._send(f.CREDIT, f.credit_payload(self._unacknowledged[stream]), stream=stream)
            self._unacknowledged[stream] = 0

    def _send(self, kind: int, payload: bytes, *, stream: int = 0, flags: int = 0) -> None:
        self._seq += 1
        frame = f.pack(kind, payload, stream=stream, seq=self._seq, flags=flags)
        self._ring.append((self._seq, stream if kind == f.DATA else 0, frame))
        self._ring_bytes += len(frame)
        if self.open:
            self._out.append(frame)

    def _on_frame(self, frame: Frame, items: list[Asked | Input | EpochBegan]) -> None:
        if frame.kind == f.HELLO:
            try:
                self._on_hello(codec.decode_hello(frame.payload), items)
            except WireError:
                self._split.reject_hello()
        elif frame.kind == f.ACK:
            assert frame.seq <= self._seq, "the host acknowledged what we never sent"
            while self._ring and self._ring[0][0] <= frame.seq:
                self._ring_bytes -= len(self._ring.popleft()[2])
        elif frame.seq > self._received + 1:
            self._split.lose("a frame is missing")
        elif frame.seq == self._received + 1:
            self._received += 1
            self._on_new(frame, items)

    def _on_new(self, frame: Frame, items: list[Asked | Input | EpochBegan]) -> None:
        if frame.kind == f.REQUEST:
            items.append(Asked(frame.stream, codec.decode_request(frame.payload)))
        elif frame.kind == f.CREDIT and frame.stream in self._credit:
            self._credit[frame.stream] += f.credit_amount(frame.payload)
        elif frame.kind == f.DATA and frame.stream in self._credit:
            items.append(Input(frame.stream, frame.payload, frame.flags & f.END != 0))

    def _on_hello(self, hello: Hello, items: list[Asked | Input | EpochBegan]) -> None:
        marker, received = self._key or f.START, hello.received
        if hello.epoch != self.epoch:
            self.epoch, self._received, received = hello.epoch, 0, 0
            for stream in self._credit:
                unread = sum(len(frame) - f.HEADER_BYTES for _, s, frame in self._ring if s == stream)
                self._credit[stream], self._unacknowledged[stream] = f.WINDOW - unread, 0
            items.append(EpochBegan())
        self._key = hello.key or self._key
        self._split.expect(self._key)
        repeated = [frame for seq, _, frame in self._ring if seq > received]
        answer = self._boot._replace(epoch=self.epoch, received=self._received, first=self._seq - len(repeated) + 1)
        self._out = [marker, f.pack(f.HELLO, codec.encode(answer)), *repeated]
        self._acknowledged, self.open = 0, True
