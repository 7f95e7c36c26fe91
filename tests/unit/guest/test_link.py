# SPDX-License-Identifier: Apache-2.0
"""HostLink against a guest that breaks the rules: it raises or recovers, and keeps little."""

import pytest

from stage1.errors import BadRequest
from stage1.guest import codec
from stage1.guest import frame as f
from stage1.guest import messages as m
from stage1.guest.flow import MAX_CREDIT
from stage1.guest.link import (
    MAX_WAITING,
    MOST_HELLOS,
    DataSeen,
    EventSeen,
    HelloSeen,
    HostLink,
    LinkFault,
    LinkFull,
    ReplySeen,
)
from stage1.guest.unacknowledged import HELD_LIMIT
from tests.fakes.guest_link import Asked, GuestLink, Input

KEY = bytes(range(60, 76))
EPOCH = 2**63 + 5
HELLO = m.Hello(epoch=EPOCH, first=1, boot_id=9)
ASKED = EPOCH % 0x7FFFFFFF + 1
"""The link's first request."""


def greeting(hello: m.Hello = HELLO, marker: bytes = KEY) -> bytes:
    """What a guest answers."""
    return marker + f.pack(f.HELLO, codec.encode(hello))


@pytest.fixture
def link() -> HostLink:
    """A link that is open, with stream 1."""
    link = HostLink(KEY, EPOCH)
    link.open_stream(1)
    link.connect(123)
    assert link.receive(greeting()) == [HelloSeen(HELLO)]
    link.outgoing()
    return link


def data(seq: int, payload: bytes = b"x", *, stream: int = 1, flags: int = 0) -> bytes:
    """A DATA frame of the guest."""
    return f.pack(f.DATA, payload, stream=stream, seq=seq, flags=flags)


def exited(seq: int) -> bytes:
    """An EVENT frame of the guest."""
    return f.pack(f.EVENT, codec.encode_event(m.Exited("c")), seq=seq)


def feed(link: HostLink, *pieces: bytes) -> None:
    """Give the link bytes, a piece at a time."""
    for piece in pieces:
        link.receive(piece)


BREACHES = {
    "data beyond the credit": b"".join(data(n, bytes(16384)) for n in range(1, 6)),
    "data frame too long": data(1, bytes(16385)),
    "malformed reply": f.pack(f.REPLY, b"\x08", stream=ASKED, seq=1),
    "reply with a number out of range": f.pack(f.REPLY, codec.encode(m.Reply(pid=2**23)), stream=ASKED, seq=1),
    "event out of range": f.pack(f.EVENT, codec.encode_event(m.Exited("c", unix_ns=2**64 - 1)), seq=1),
    "malformed event": f.pack(f.EVENT, b"\x0a\x05", seq=1),
    "a request": f.pack(f.REQUEST, codec.encode_request(m.List()), stream=1, seq=1),
    "credit of three bytes": f.pack(f.CREDIT, b"abc", stream=1, seq=1),
    "credit of nothing": f.pack(f.CREDIT, bytes(4), stream=1, seq=1),
    "credit without end": f.pack(f.CREDIT, f.credit_payload(MAX_CREDIT), stream=1, seq=1),
    "acknowledges what was not sent": f.pack(f.ACK, seq=2),
    "another boot": greeting(HELLO._replace(boot_id=10)),
    "lost frames": greeting(HELLO._replace(first=2)),
    "no first": greeting(HELLO._replace(first=0)),
    "another version": greeting(HELLO._replace(version=2)),
    "has what was not sent": greeting(HELLO._replace(received=2)),
    "hello out of range": greeting(HELLO._replace(ready_ns=2**63)),
}


@pytest.mark.parametrize("breach", BREACHES)
def test_a_breach_of_the_rules_is_a_fault(link: HostLink, breach: str) -> None:
    assert link.request(m.List()) == ASKED
    with pytest.raises(LinkFault):
        feed(link, *(BREACHES[breach][at : at + 10_000] for at in range(0, len(BREACHES[breach]), 10_000)))


RUBBISH = {
    "unknown kind": f.pack(9, seq=1),
    "kind zero": bytes(20),
    "length above the maximum": f.pack(f.DATA, bytes(32769), stream=1, seq=1),
    "text": b"Kernel panic - not syncing: Attempted to kill init!\r\n",
    "flags": data(1, flags=2),
    "flags of another kind": f.pack(f.EVENT, b"", seq=1, flags=1),
    "hello without a marker": f.pack(f.HELLO, codec.encode(HELLO)),
    "a number that skips ahead": data(2),
    "half a frame and a greeting": data(1)[:15] + greeting(),
}


@pytest.mark.parametrize("rubbish", RUBBISH)
def test_after_rubbish_the_link_greets_again_and_goes_on(link: HostLink, rubbish: str) -> None:
    seen = link.receive(RUBBISH[rubbish])
    if rubbish.startswith("half"):
        assert seen == [HelloSeen(HELLO)]
    else:
        assert seen == []
        assert not link.open
        assert link.outgoing().startswith(KEY)
        assert link.receive(greeting()) == [HelloSeen(HELLO)]
    assert link.receive(data(1)) == [DataSeen(1, b"x", False, 1)]


def test_a_hello_before_the_greeting_is_a_fault(link: HostLink) -> None:
    assert link.receive(greeting()) == link.receive(greeting()) == [HelloSeen(HELLO)]
    with pytest.raises(LinkFault, match="Hello"):
        link.receive(greeting())


def test_answers_to_greetings_can_not_be_saved_up(link: HostLink) -> None:
    for _ in range(1000):
        link.connect(1)
    with pytest.raises(LinkFault, match="Hello"):
        feed(link, *[greeting()] * (MOST_HELLOS + 1))


def test_rubbish_without_end_is_a_fault_in_the_end(link: HostLink) -> None:
    with pytest.raises(LinkFault, match="malformed frames"):
        feed(link, *[greeting() + bytes(40)] * 20)


def test_noise_before_the_guest_speaks_is_thrown_away_without_being_kept() -> None:
    link = HostLink(KEY, EPOCH)
    link.connect(1)
    for _ in range(100):
        assert link.receive(bytes(65536)) == []
    assert len(link._split._buffer) < 2 * 65536
    assert link.receive(b"noise" + greeting(marker=f.START)) == [HelloSeen(HELLO)]


def test_an_answer_to_a_host_process_before_us_is_passed_over() -> None:
    link = HostLink(KEY, EPOCH)
    link.open_stream(1)
    link.connect(1)
    stale = greeting(HELLO._replace(epoch=77, boot_id=9)) + data(1, b"old") + data(2, b"older")[:25]
    assert link.receive(stale + greeting()) == [HelloSeen(HELLO)]
    assert link.receive(data(1)) == [DataSeen(1, b"x", False, 1)]


def test_what_came_before_a_fault_is_delivered_before_the_fault(link: HostLink) -> None:
    assert link.receive(data(1) + f.pack(f.ACK, seq=99)) == [DataSeen(1, b"x", False, 1)]
    with pytest.raises(LinkFault):
        link.receive(b"")
    with pytest.raises(LinkFault):
        link.outgoing()
    link.connect(1)  # a new connection is a new chance
    assert link.receive(greeting(HELLO._replace(first=2))) == [HelloSeen(HELLO._replace(first=2))]


def test_a_frame_that_comes_again_is_dropped(link: HostLink) -> None:
    assert link.receive(data(1) + data(1) + data(2) + data(1)) == [
        DataSeen(1, b"x", False, 1),
        DataSeen(1, b"x", False, 2),
    ]


def test_data_for_an_unknown_or_ended_stream_is_dropped(link: HostLink) -> None:
    assert link.receive(data(1, stream=5)) == []
    assert link.receive(data(2, b"", flags=f.END)) == [DataSeen(1, b"", True, 2)]
    assert link.receive(data(3)) == []
    link.acknowledge(2)
    assert link.outgoing() == f.pack(f.ACK, seq=3)


def test_a_flood_of_events_that_are_not_taken_is_a_fault(link: HostLink) -> None:
    with pytest.raises(LinkFault, match="without waiting"):
        feed(link, *(exited(seq) for seq in range(1, HELD_LIMIT // 20)))


USELESS = {
    "data without anything": data(1, b""),
    "data for an unknown stream": data(1, stream=5),
    "reply that nobody asked for": f.pack(f.REPLY, b"\xff" * 100, stream=12345, seq=1),
    "event that we do not know": f.pack(f.EVENT, b"\x7a\x00", seq=1),
    "credit for an unknown stream": f.pack(f.CREDIT, f.credit_payload(9999), stream=5, seq=1),
    "credit of next to nothing": f.pack(f.CREDIT, f.credit_payload(1), stream=1, seq=1),
    "acknowledgement of nothing": f.pack(f.ACK, seq=0),
    "frame that was there before": f.pack(f.EVENT, b"", seq=0),
}


@pytest.mark.parametrize("frame", USELESS)
def test_frames_without_effect_are_counted_and_ignored(link: HostLink, frame: str) -> None:
    assert link.receive(USELESS[frame]) == []
    assert link.useless == 1


def test_work_is_done_in_portions(link: HostLink) -> None:
    frames = b"".join(data(seq) for seq in range(1, 11))
    seen = link.receive(frames, 4)
    assert (len(seen), link.has_more) == (4, True)
    while link.has_more:
        seen += link.receive(b"", 4)
    assert [one.seq for one in seen if isinstance(one, DataSeen)] == list(range(1, 11))
    assert len(link.receive(data(11, bytes(16384)) + data(12), 4)) == 1


def test_a_reply_without_request_is_dropped(link: HostLink) -> None:
    assert link.receive(f.pack(f.REPLY, b"", stream=12345, seq=1)) == []
    number = link.request(m.List())
    assert link.receive(f.pack(f.REPLY, b"", stream=number, seq=2)) == [ReplySeen(number, m.Reply())]
    assert link.receive(f.pack(f.REPLY, b"", stream=number, seq=3)) == []


def test_a_guest_that_takes_nothing_is_a_fault_and_not_a_heap_of_memory(link: HostLink) -> None:
    with pytest.raises(LinkFull, match="stopped taking"):
        any(link.forget(link.request(m.List())) for _ in range(10_000))
    assert link.credit_of(1) == 0
    assert link.outgoing()  # what was sent before is not lost, and no rule is broken


def test_a_guest_that_answers_nothing_is_asked_no_more(link: HostLink) -> None:
    with pytest.raises(LinkFull, match=f"not answered {MAX_WAITING} earlier"):
        any(link.request(m.List()) == 0 for _ in range(MAX_WAITING + 1))
    link.forget(ASKED)
    link.request(m.List())


def reply(seq: int, text: str = "") -> bytes:
    """A REPLY frame of the guest without a request."""
    return f.pack(f.REPLY, codec.encode(m.Reply(error=text)), stream=7, seq=seq)


def test_an_acknowledgement_of_a_few_replies_waits_for_the_next_request(link: HostLink) -> None:
    feed(link, reply(1), reply(2))
    assert not link.is_due
    link.request(m.List())
    assert link.is_due and link.outgoing().endswith(f.pack(f.ACK, seq=2))
    assert not link.is_due


def test_an_acknowledgement_of_many_replies_or_of_much_does_not_wait(link: HostLink) -> None:
    feed(link, *(reply(seq) for seq in range(1, 32)))
    assert not link.is_due
    feed(link, reply(32))
    assert link.is_due and link.outgoing() == f.pack(f.ACK, seq=32)
    feed(link, reply(33, "x" * 16384))
    assert link.is_due


def test_an_acknowledgement_of_output_and_events_does_not_wait(link: HostLink) -> None:
    feed(link, data(1))
    assert link.is_due
    link.acknowledge(1)
    assert link.outgoing() == f.pack(f.ACK, seq=1)
    feed(link, exited(2))
    assert link.is_due


def test_only_what_was_settled_in_order_is_acknowledged(link: HostLink) -> None:
    link.receive(data(1) + data(2) + exited(3) + data(4))
    assert link.outgoing() == b""
    link.settle(2)
    assert link.outgoing() == b""
    link.settle(1)
    assert link.outgoing() == f.pack(f.ACK, seq=2)
    link.acknowledge(3)
    assert link.outgoing() == f.pack(f.ACK, seq=3)
    link.settle(4)
    link.settle(4)
    assert link.outgoing() == f.pack(f.ACK, seq=4)


def test_an_acknowledgement_that_may_be_lost_is_sent_again_after_a_cut(link: HostLink) -> None:
    link.receive(data(1))
    link.acknowledge(1)
    assert f.pack(f.ACK, seq=1) in link.outgoing()
    link.connect(1)
    link.receive(greeting())
    assert f.pack(f.ACK, seq=1) in link.outgoing()


def test_credit_is_given_back_in_portions(link: HostLink) -> None:
    link.receive(data(1, bytes(16384)))
    link.consumed(1, 16383)
    assert link.outgoing() == b""
    link.consumed(1, 1)
    assert link.outgoing() == f.pack(f.CREDIT, f.credit_payload(16384), stream=1, seq=1)


@pytest.mark.parametrize(("size", "end"), [(0, True), (1, True), (16384, True), (16385, False), (65536, True)])
def test_data_goes_out_in_frames_and_ends_once(link: HostLink, size: int, end: bool) -> None:
    guest = GuestLink(m.Hello(boot_id=9))
    guest.open_stream(1)
    guest.receive(f.START + f.pack(f.HELLO, codec.encode(m.Hello(key=KEY, epoch=EPOCH))))
    assert link.send_data(1, bytes(size), end=end) == size
    seen = [item for item in guest.receive(link.outgoing()) if isinstance(item, Input)]
    assert sum(len(item.data) for item in seen) == size
    assert [item.end for item in seen] == [False] * (len(seen) - 1) + [end]
    assert link.credit_of(1) == 65536 - size


def test_no_more_is_sent_than_there_is_credit_for(link: HostLink) -> None:
    assert link.send_data(1, bytes(70_000), end=True) == 65536
    assert link.send_data(1, b"x", end=True) == 0
    link.receive(f.pack(f.CREDIT, f.credit_payload(10), stream=1, seq=1))
    assert link.credit_of(1) == 10
    assert link.send_data(5, b"nobody") == 0


def test_a_guest_that_has_our_key_and_one_that_has_not_both_understand_the_greeting() -> None:
    fresh, keyed = GuestLink(m.Hello(boot_id=1)), GuestLink(m.Hello(boot_id=1))
    before = HostLink(KEY, 1)
    before.connect(1)
    keyed.receive(before.outgoing())
    for guest in (fresh, keyed):
        link = HostLink(KEY, EPOCH)
        link.connect(1)
        guest.receive(link.outgoing())
        assert [type(item) for item in link.receive(guest.outgoing())] == [HelloSeen]
        link.request(m.List())
        assert [type(item) for item in guest.receive(link.outgoing())] == [Asked]


def test_a_request_that_is_too_long_is_refused(link: HostLink) -> None:
    with pytest.raises(BadRequest, match="Start"):
        link.request(m.Start("x" * 40_000))


@pytest.mark.parametrize(("key", "epoch"), [(b"short", 1), (KEY, 0), (KEY, 2**64)])
def test_a_link_without_a_key_or_epoch_is_refused(key: bytes, epoch: int) -> None:
    with pytest.raises(BadRequest):
        HostLink(key, epoch)


def test_events_name_what_ended(link: HostLink) -> None:
    assert link.receive(exited(1)) == [EventSeen(m.Exited("c"), 1)]
    assert link.receive(f.pack(f.EVENT, b"\xfa\x06\x00", seq=2)) == []
