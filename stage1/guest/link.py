# SPDX-License-Identifier: Apache-2.0
"""The host's end of the link, without I/O: bytes in, things that happened out. docs/dev/link.md is the rule book.

Used by `client.py` (blocking) and by the daemon (asyncio). The caller moves bytes: it gives what it read to
`receive`, writes all of `outgoing()` after that, and calls `connect` whenever it has a new connection.
Nothing here blocks or reads a clock. The guest is not trusted: a violation raises LinkFault or is
dropped, and memory for the guest is limited (docs/design/link.md). Messages leave with all
values in range (`checked.py`).
`useless` and `resyncs` count what a guest may do, but not often; who has a clock limits how often (`budget.py`).
"""

from stage1.errors import BadRequest
from stage1.guest import checked, codec, messages
from stage1.guest.flow import Flow
from stage1.guest.frame import (
    ACK,
    CREDIT,
    DATA,
    END,
    EVENT,
    HELLO,
    MAX_DATA,
    MAX_FALSE_MARKERS,
    MAX_PAYLOAD,
    REPLY,
    REQUEST,
    RING,
    START,
    Frame,
    Splitter,
    credit_amount,
    credit_payload,
    pack,
)
from stage1.guest.incoming import DataSeen as DataSeen
from stage1.guest.incoming import EventSeen as EventSeen
from stage1.guest.incoming import HelloSeen as HelloSeen
from stage1.guest.incoming import Incoming as Incoming
from stage1.guest.incoming import LinkFault as LinkFault
from stage1.guest.incoming import LinkFull as LinkFull
from stage1.guest.incoming import ReplySeen as ReplySeen
from stage1.guest.messages import Hello, Op
from stage1.guest.unacknowledged import Held, Sent
from stage1.guest.wire import WireError

MAX_RESYNCS = 8  # faults in a row
MAX_NOISE = 2**24  # bytes before an answer: a ring, and what was under way, are far less
MAX_WAITING = 1024  # requests without an answer
HELLOS = 3  # answers to one greeting, which may hold as many HELLOs
MOST_HELLOS = 64  # answers to all greetings of a guest that was late, each of which asks for all that we have sent
ACK_BYTES = 16384  # received since our last acknowledgement: another one is due; a frame counts as FRAME_BYTES more
FRAME_BYTES = 512
LEAST_CREDIT = 1024  # a CREDIT frame of less is more work than it is worth


class HostLink:
    """One guest's link. `key` is 16 secret bytes of the pod, `epoch` a random number (not 0) of this host
    process. `first` is the marker that a guest knows which has not met this pod's host: START, or if it is a copy of
    another pod's guest, that one's key.

    Streams that may have output already (the daemon was restarted) must be opened before the first `receive`:
    data for a stream that is not open is dropped for good.
    """

    def __init__(self, key: bytes, epoch: int, first: bytes = START) -> None:
        if len(key) != len(START) or len(first) != len(START) or not 0 < epoch < 2**64:
            raise BadRequest("a link needs a key of 16 bytes and an epoch from 1 to 2^64 - 1")
        self.hello: Hello | None = None  # the guest's latest
        self.open = False  # hellos were exchanged on this connection
        self.has_more = False  # frames that `receive` has not taken yet
        self.useless = 0  # frames without any effect, from the beginning
        self.resyncs = 0  # greetings because the stream of frames broke, from the beginning
        self._noise = 0  # bytes since the link was open
        self._hellos = 0  # answers that we still expect
        self._key, self._epoch, self._first = key, epoch, first
        # Pending replies to another epoch differ from ours by their request ids, which start at the epoch.
        self._next_id = epoch % 0x7FFFFFFF + 1
        self._waiting: set[int] = set()
        self._flows: dict[int, Flow] = {}
        self._split = Splitter()
        self._out: list[bytes] = []
        self._sent, self._held = Sent(), Held()
        self._received = self._acknowledged = self._unsaid = 0
        self._resyncs = self._unix_ns = 0
        self._fault: LinkFault | None = None

    # The connection

    def connect(self, unix_ns: int) -> None:
        """Begin on a new connection; `unix_ns` is the wall clock, to which the guest sets its own."""
        self._unix_ns, self._fault, self._resyncs = unix_ns, None, 0
        self._split.restart(*((self._key,) if self.hello else (self._first, self._key)))
        self._greet()

    def receive(self, data: bytes, work: int = 1 << 30) -> list[Incoming]:
        """Parse bytes from the guest; return their events. Raises LinkFault.

        About `work` units are done, a frame being one and each KiB of its payload four more; with `has_more` the rest
        is to be taken by further calls, without data.
        """
        self.raise_fault()
        items: list[Incoming] = []
        self._split.feed(data)
        self._noise = 0 if self.open else self._noise + len(data)
        try:
            if self._noise > MAX_NOISE or self._split.false_markers > MAX_FALSE_MARKERS:
                raise LinkFault("the guest's agent does not answer, and sends malformed frames")
            while work > 0 and (frame := self._split.take()) is not None:
                work -= 1 + (len(frame.payload) >> 8)
                self._on_frame(frame, items)
            self.has_more = work <= 0
            if self._split.lost:
                self._resync()
        except LinkFault as fault:
            if not items:
                raise
            self._fault = fault  # what came before it is good, and was counted as received
        return items

    def outgoing(self) -> bytes:
        """Return the bytes to write now, all of them in this order; b"" when there is nothing. Raises
        LinkFault."""
        self.raise_fault()
        if self.open:
            done = self._held.used_up(self._received)
            if done == self._received:
                self._unsaid = 0
            if done > self._acknowledged:
                self._acknowledged = done
                self._out.append(pack(ACK, seq=done))
        out = b"".join(self._out)
        self._out.clear()
        return out

    @property
    def is_due(self) -> bool:
        """Whether what `outgoing` would return can't wait: an acknowledgement of a few replies goes out with the next
        request, since the guest's ring has room for them.
        """
        return bool(self._out) or self._unsaid >= ACK_BYTES

    def _greet(self) -> None:
        self.open = False
        self._hellos = min(self._hellos + HELLOS, MOST_HELLOS)
        hello = pack(HELLO, codec.encode(
            Hello(key=self._key, epoch=self._epoch, received=self._received, unix_ns=self._unix_ns)
        ))  # fmt: skip
        greeting = [self._key, hello]
        # Until the guest has answered we can't know whether it has our key. One that has it must see the key first
        # (else its half frame would swallow the other marker), and again behind what is no frame to it.
        self._out = greeting if self.hello else [*greeting, self._first, hello, *greeting]

    def _resync(self) -> None:
        """The stream of frames broke: ask the guest to begin again from where we are."""
        self._resyncs += 1
        self.resyncs += 1
        if self._resyncs > MAX_RESYNCS:
            raise LinkFault(f"the guest's agent sends malformed frames: {self._split.lost}")
        self._split.lost = ""
        self._greet()

    def raise_fault(self) -> None:
        """Raise the LinkFault that came behind what `receive` returned last, if there is one."""
        if self._fault is not None:
            raise self._fault

    # Requests

    def request(self, op: Op) -> int:
        """Send a request, now or when the link is open; return its id. Raises BadRequest, LinkFull."""
        payload = codec.encode_request(op)
        if len(payload) > MAX_PAYLOAD:
            raise BadRequest(f"{type(op).__name__} has {len(payload)} bytes, the agent takes {MAX_PAYLOAD}")
        if len(self._waiting) >= MAX_WAITING:
            raise LinkFull(f"the guest's agent has not answered {len(self._waiting)} earlier requests; try again later")
        if not self._sent.has_capacity():
            raise LinkFull(f"the guest's agent has stopped taking requests, {len(self._waiting)} wait; try again later")
        number = self._next_id
        self._next_id = number % 0xFFFFFFFF + 1
        self._waiting.add(number)
        self._send(REQUEST, payload, stream=number)
        return number

    def forget(self, request: int) -> None:
        """Throw the reply to `request` away when it comes."""
        self._waiting.discard(request)

    # Streams

    def open_stream(self, stream: int) -> None:
        """Expect data on `stream`, or prepare to send there. Doing it again changes nothing."""
        self._flows.setdefault(stream, Flow())

    def close_stream(self, stream: int) -> None:
        """Drop further data of `stream`."""
        self._flows.pop(stream, None)

    def credit_of(self, stream: int) -> int:
        """Return how many bytes `send_data` would accept now; 0 for a stream that is not open."""
        flow = self._flows.get(stream)
        return max(0, min(flow.credit, RING - self._sent.size)) if flow and self._sent.has_capacity() else 0

    def send_data(self, stream: int, data: bytes | memoryview, *, end: bool = False) -> int:
        """Send as much of `data` as credit allows and return that many bytes; `end` goes out with the last
        byte.

        The rest is the caller's to offer again when the guest has given credit. An empty `data` with `end`
        always goes.
        """
        size = min(len(data), self.credit_of(stream))
        view, last = memoryview(data), end and size == len(data)
        for at in range(0, size, MAX_DATA):
            part = view[at : min(at + MAX_DATA, size)]
            self._send(DATA, bytes(part), stream=stream, flags=END if last and at + len(part) == size else 0)
        if last and not size and stream in self._flows:
            self._send(DATA, b"", stream=stream, flags=END)
        if size:
            self._flows[stream].credit -= size
        return size

    def consumed(self, stream: int, count: int) -> None:
        """Say that `count` bytes of the stream were used up, so the guest may send that many more. Raises
        LinkFault."""
        flow = self._flows.get(stream)
        if flow is not None and not flow.has_ended and (amount := flow.use_up(count)):
            self._send(CREDIT, credit_payload(amount), stream=stream)

    def acknowledge(self, seq: int) -> None:
        """Everything up to `seq` is safe: the guest may forget it."""
        self._held.release_until(seq)

    def settle(self, seq: int) -> None:
        """Mark only `seq` as durable, for callers that finish out of order; it is acknowledged once all before it are
        durable too.
        """
        self._held.release(seq)

    # Sending

    def _send(self, kind: int, payload: bytes, *, stream: int, flags: int = 0) -> None:
        frame = self._sent.add(kind, payload, stream=stream, flags=flags)
        if self.open:
            self._out.append(frame)

    # Receiving

    def _on_frame(self, frame: Frame, items: list[Incoming]) -> None:
        kind, _, _, seq, payload = frame
        if kind == HELLO:
            self._on_hello(payload, items)
        elif kind == ACK:
            self.useless += not self._sent.acknowledge(seq)
        elif seq > self._received + 1:
            self._split.lose(f"frame {seq} after frame {self._received}")
        elif seq <= self._received:
            self.useless += 1
        else:
            self._received, self._resyncs = seq, 0
            self._unsaid += FRAME_BYTES + len(payload) if kind == REPLY else ACK_BYTES
            if kind == DATA:
                self._on_data(frame, items)
            elif kind == CREDIT:
                self._on_credit(frame)
            else:
                self._on_message(frame, items)

    def _on_hello(self, payload: bytes, items: list[Incoming]) -> None:
        try:
            hello = codec.decode_hello(payload)
        except WireError:
            return self._reject_hello()
        if hello.epoch != self._epoch:  # an answer to a previous client that was still in the pipe
            return self._reject_hello()
        self._hellos -= 1
        if self._hellos < 0:
            raise LinkFault("the guest's agent repeats Hello too often")
        self._check_hello(hello)
        self._sent.acknowledge(hello.received)
        if self.hello is None:
            self._received = hello.first - 1
            self._split.expect(self._key)
        self.hello, self.open = hello, True
        self._acknowledged, self._unsaid = 0, ACK_BYTES  # our last ACK may be lost: say it again
        self._out = self._sent.frames()
        items.append(HelloSeen(hello))
        return None

    def _reject_hello(self) -> None:
        self.useless += 1
        self._hellos -= self.open  # what was still under way for others came before our answer
        if self._hellos < 0:
            raise LinkFault("the guest's agent repeats Hello too often")
        self._split.reject_hello()

    def _check_hello(self, hello: Hello) -> None:
        try:
            checked.hello(hello)
        except WireError as error:
            raise LinkFault(f"the guest's agent sent an invalid message: {error}") from None
        if hello.version != messages.VERSION:
            raise LinkFault(f"the guest's agent speaks version {hello.version} of the link, not {messages.VERSION}")
        if not hello.first:
            raise LinkFault("the guest's agent does not report the number of its first frame")
        if self.hello is None:
            return
        if hello.boot_id != self.hello.boot_id:
            raise LinkFault("the guest was rebooted: its containers have ended")
        if hello.first > self._received + 1:
            raise LinkFault(f"the guest's agent lost frames {self._received + 1} to {hello.first - 1}")

    def _on_data(self, frame: Frame, items: list[Incoming]) -> None:
        flow = self._flows.get(frame.stream)
        size, end = len(frame.payload), frame.flags & END != 0
        if flow is None or flow.has_ended or not (size or end):
            self.useless += 1
            return
        if not flow.receive(size, end=end):
            raise LinkFault(f"the guest's agent exceeded its credit on stream {frame.stream}")
        self._held.add(frame.seq, size)
        items.append(DataSeen(frame.stream, frame.payload, end, frame.seq))

    def _on_credit(self, frame: Frame) -> None:
        amount = credit_amount(frame.payload)
        flow = self._flows.get(frame.stream)
        if not amount or (flow is not None and not flow.gain(amount)):
            raise LinkFault(f"the guest's agent gave invalid credit on stream {frame.stream}")
        self.useless += flow is None or amount < LEAST_CREDIT

    def _on_message(self, frame: Frame, items: list[Incoming]) -> None:
        try:
            if frame.kind == REPLY:
                self._on_reply(frame, items)
            elif frame.kind == EVENT:
                event = codec.decode_event(frame.payload)
                if event is None:
                    self.useless += 1
                else:
                    self._held.add(frame.seq, len(frame.payload))
                    items.append(EventSeen(checked.exited(event), frame.seq))
            else:
                raise LinkFault("the guest's agent sent a request; only the host does that")
        except WireError as error:
            raise LinkFault(f"the guest's agent sent an invalid message: {error}") from None

    def _on_reply(self, frame: Frame, items: list[Incoming]) -> None:
        """Decode a reply to a pending request; any other is counted and not read."""
        if frame.stream not in self._waiting:
            self.useless += 1
            return
        self._waiting.discard(frame.stream)
        items.append(ReplySeen(frame.stream, checked.reply(codec.decode_reply(frame.payload))))
