# SPDX-License-Identifier: Apache-2.0
"""Two ends of the link over a pipe that loses, cuts and re-chunks: every byte arrives once and in order."""

from hypothesis import given, settings
from hypothesis import strategies as st

from stage1.guest.link import DataSeen, EventSeen, HostLink, ReplySeen
from stage1.guest.messages import Exited, Hello, List, Reply
from tests.fakes.guest_link import Asked, EpochBegan, GuestLink, Input

KEY = bytes(range(100, 116))
OUT, IN = 7, 8


def pattern(size: int) -> bytes:
    """Bytes that tell their own place, salted with the key: data must never be taken for a marker."""
    return (b"".join(n.to_bytes(4, "little") for n in range(size // 4 + 1)) + KEY)[:size]


class Pipe:
    """What one side wrote and the other has not read."""

    def __init__(self) -> None:
        self.bytes = bytearray()

    def take(self, size: int) -> bytes:
        chunk = bytes(self.bytes[:size])
        del self.bytes[:size]
        return chunk


class World:
    """Two links and the pipes between them; `step` does one thing that a draw chose."""

    def __init__(self, size: int, told: bool) -> None:
        self.told = told  # whether the guest's transport tells of a disconnection (vsock) or not (serial port)
        self.guest = GuestLink(Hello(boot_id=1))
        self.guest.open_stream(OUT)
        self.guest.open_stream(IN)
        self.epoch = 0
        self.to_guest, self.to_host = Pipe(), Pipe()
        self.output, self.input = pattern(size), pattern(size)
        self.sent_out = self.sent_in = 0
        self.log = bytearray()  # what the host has written to its log: survives the host
        self.log_seq = 0
        self.got_in = bytearray()
        self.events: list[int] = []
        self.ended = False
        self.asked: list[int] = []
        self.requests: set[int] = set()
        self.replies: list[int] = []
        self.new_host()

    def new_host(self) -> None:
        self.epoch += 1
        self.host = HostLink(KEY, self.epoch)
        self.host.open_stream(OUT)
        self.host.open_stream(IN)
        self.sent_in = 0
        self.got_in.clear()
        self.replies.clear()
        self.requests.clear()
        self.unread: list[DataSeen] = []
        self.connect()

    def connect(self) -> None:
        self.host.connect(1)
        if self.told:
            self.to_guest.bytes.clear()
            self.guest.connected()
        self.to_guest.bytes += self.host.outgoing()
        if not self.told:  # see Splitter: a chunk that ends inside the marker could complete a torn frame
            self.guest_reads(len(self.to_guest.bytes))

    def cut(self, lost_to_guest: int, lost_to_host: int) -> None:
        """The host's end closes. Of what was in flight only a beginning arrives, in either direction."""
        keep = max(0, len(self.to_guest.bytes) - lost_to_guest)
        self.guest_reads(keep)
        del self.to_host.bytes[max(0, len(self.to_host.bytes) - lost_to_host) :]
        self.to_guest.bytes.clear()
        self.to_host.bytes.clear()

    def guest_reads(self, size: int) -> None:
        for item in self.guest.receive(self.to_guest.take(size)):
            if isinstance(item, Asked):
                assert item.op == List()
                self.asked.append(item.id)
                self.guest.reply(item.id, Reply(pid=item.id % 1000))
            elif isinstance(item, Input):
                self.got_in += item.data
                self.guest.consumed(item.stream, len(item.data))
            elif isinstance(item, EpochBegan):
                self.got_in.clear()
                self.asked.clear()
        self.to_host.bytes += self.guest.outgoing()

    def host_reads(self, size: int, acknowledge: bool) -> None:
        for item in self.host.receive(self.to_host.take(size)):
            if isinstance(item, DataSeen):
                self.unread.append(item)
            elif isinstance(item, EventSeen):
                self.host.settle(item.seq)
                self.events.append(item.event.exec)
            elif isinstance(item, ReplySeen):
                assert item.id in self.requests
                self.replies.append(item.id)
        if acknowledge:
            self.write_log()
        self.to_guest.bytes += self.host.outgoing()

    def write_log(self) -> None:
        for item in self.unread:
            if item.seq > self.log_seq:  # the log says how far it got, as the daemon's does
                self.log += item.data
                self.ended |= item.end
                self.log_seq = item.seq
            self.host.consumed(item.stream, len(item.data))
            self.host.acknowledge(item.seq)
        self.unread.clear()

    def guest_writes(self, size: int) -> None:
        if not self.sent_out < len(self.output):
            return
        size = min(size, self.guest.sendable(OUT), len(self.output) - self.sent_out)
        data = self.output[self.sent_out : self.sent_out + size]
        self.sent_out += size
        if data:
            self.guest.send(OUT, data, end=self.sent_out == len(self.output))
        self.to_host.bytes += self.guest.outgoing()

    def host_writes(self, size: int) -> None:
        self.sent_in += self.host.send_data(IN, self.input[self.sent_in : self.sent_in + size])
        self.to_guest.bytes += self.host.outgoing()

    def finish(self) -> None:
        """A calm end: no more cuts; everything must arrive."""
        self.cut(10**9, 10**9)
        self.connect()
        for _ in range(2000):
            self.guest_writes(16384)
            self.host_writes(65536)
            self.guest_reads(10**9)
            self.host_reads(10**9, True)
            if not (self.to_host.bytes or self.to_guest.bytes) and self.ended and self.sent_in == len(self.input):
                break


STEPS = st.one_of(
    st.tuples(st.just("guest_writes"), st.integers(1, 16384)),
    st.tuples(st.just("host_writes"), st.integers(1, 70000)),
    st.tuples(st.just("guest_reads"), st.one_of(st.integers(1, 60), st.integers(1, 100000))),
    st.tuples(st.just("host_reads"), st.one_of(st.integers(1, 60), st.integers(1, 100000)), st.booleans()),
    st.tuples(st.just("cut"), st.integers(0, 40000), st.integers(0, 40000), st.booleans()),
    st.tuples(st.just("ask")),
)


@settings(max_examples=150, deadline=None)
@given(st.booleans(), st.integers(1, 400_000), st.lists(STEPS, max_size=60))
def test_every_byte_arrives_once_and_in_order_whatever_is_cut_when(told, size, steps):
    world = World(size, told)
    for name, *arguments in steps:
        if name == "ask":
            if len(world.requests) < 100:
                world.requests.add(world.host.request(List()))
                world.to_guest.bytes += world.host.outgoing()
        elif name == "cut":
            lost_to_guest, lost_to_host, died = arguments
            world.cut(lost_to_guest, lost_to_host)
            if died:
                world.new_host()
            else:
                world.connect()
        else:
            getattr(world, name)(*arguments)
    world.finish()
    assert bytes(world.log) == world.output
    assert bytes(world.got_in) == world.input
    assert sorted(world.replies) == sorted(world.requests)
    assert len(world.asked) == len(set(world.asked))


def test_events_survive_a_cut_and_come_once():
    world = World(1, True)
    world.guest_reads(10**9)
    world.host_reads(10**9, True)
    for number in range(1, 4):
        world.guest.event(Exited("c", number))
    world.to_host.bytes += world.guest.outgoing()
    world.host_reads(50, True)
    world.finish()
    assert world.events == [1, 2, 3]
