# SPDX-License-Identifier: Apache-2.0
"""Channels, sizes, statuses, tokens and upgrades: the pure parts of the streaming server, without SPDY."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cri.streaming import formats
from cri.streaming.formats import LATEST, LONGEST, ChannelFault, Channels, Piece, Sizes
from cri.streaming.server import LIFE_S, MOST, Offer, Tokens
from cri.streaming.upgrade import Refusal, Upgrade, decide
from stage1.errors import NoSpace


def test_a_message_may_come_in_parts() -> None:
    codec = Channels(has_close=True)
    assert codec.receive(b"", message_ends=False) == []
    assert codec.receive(b"\0", message_ends=False) == []
    assert codec.receive(b"he", message_ends=False) == [Piece(0, b"he", False)]
    assert codec.receive(b"llo", message_ends=True) == [Piece(0, b"llo", False)]
    assert codec.receive(b"\4{}", message_ends=True) == [Piece(4, b"{}", False)]
    assert codec.receive(b"", message_ends=True) == []
    assert codec.receive(b"\xff", message_ends=False) == []
    assert codec.receive(b"\0", message_ends=True) == [Piece(0, b"", True)]


@pytest.mark.parametrize(("message", "has_close"), [(b"\5x", True), (b"\xfex", True), (b"\xff\0", False)])
def test_a_channel_that_there_is_not_is_a_fault(message: bytes, has_close: bool) -> None:
    with pytest.raises(ChannelFault):
        Channels(has_close=has_close).receive(message, message_ends=True)


@given(st.lists(st.tuples(st.binary(max_size=20), st.booleans()), max_size=20))
def test_any_message_is_understood_or_a_fault(parts: list[tuple[bytes, bool]]) -> None:
    codec = Channels(has_close=True)
    try:
        for data, ends in parts:
            for piece in codec.receive(data, message_ends=ends):
                assert piece.data or piece.end
    except ChannelFault:
        pass


@given(st.integers(0, 4), st.integers(0, 200_000))
def test_what_is_sent_is_what_is_read(channel: int, size: int) -> None:
    data = bytes(size)
    pieces = [
        p for m in formats.messages(channel, data) for p in Channels(has_close=True).receive(m, message_ends=True)
    ]
    assert b"".join(piece.data for piece in pieces) == data and {piece.channel for piece in pieces} <= {channel}


SIZES = [
    (b'{"Width":80,"Height":24}', [(80, 24)]),
    (b'{"Width":1,"Height":2}{"Width":3,"Height":4}\n{"Height":6,"Width":5}', [(1, 2), (3, 4), (5, 6)]),
    (b'{"Width":-1,"Height":2}{"Width":65536,"Height":2}{"Width":"3","Height":4}', []),
    (b'{"Width":1}}}{nonsense}[]{"Width":7,"Height":8}', [(7, 8)]),
    (b'{"Width":true,"Height":2}', []),
]


@pytest.mark.parametrize(("text", "sizes"), SIZES)
def test_sizes_are_read_however_the_bytes_are_cut(text: bytes, sizes: list[tuple[int, int]]) -> None:
    for portion in (1, 2, 3, 7, len(text)):
        codec = Sizes()
        result = [size for at in range(0, len(text), portion) for size in codec.receive(text[at : at + portion])]
        assert result == sizes


@pytest.mark.parametrize("flood", [b"}" * (1 << 18), b"{}" * (1 << 17), b'{"Width":' + b"[" * (1 << 18)])
def test_of_a_flood_the_end_is_looked_at(flood: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 256 KiB each brace was, which took the event loop a second; nested ones were a fault of ours."""
    looked: list[bytes] = []
    true = json.loads
    monkeypatch.setattr(json, "loads", lambda text: looked.append(text) or true(text))
    assert Sizes().receive(flood + b'}{"Width":80,"Height":24}') == [(80, 24)]
    assert len(looked) <= LATEST and max(map(len, looked)) <= LONGEST + 1


@given(st.lists(st.binary(max_size=60), max_size=10))
def test_any_bytes_are_sizes_or_nothing_and_little_is_kept(pieces: list[bytes]) -> None:
    codec = Sizes()
    for piece in pieces:
        for width, height in codec.receive(piece):
            assert 0 <= width < 65536 and 0 <= height < 65536
        assert len(codec._rest) <= 256


def test_statuses_are_those_that_kubectl_reads() -> None:
    assert json.loads(formats.success(4)) == {"metadata": {}, "status": "Success"}
    assert json.loads(formats.exit_code(5, 0)) == {"metadata": {}, "status": "Success"}
    assert json.loads(formats.exit_code(4, 137)) == {
        "metadata": {},
        "status": "Failure",
        "message": "command terminated with non-zero exit code: exit status 137",
        "reason": "NonZeroExitCode",
        "details": {"causes": [{"reason": "ExitCode", "message": "137"}]},
    }
    assert json.loads(formats.failure(4, "no")) == {
        "metadata": {}, "status": "Failure", "message": "no", "reason": "InternalError", "code": 500,
    }  # fmt: skip
    assert (formats.success(3), formats.failure(1, "no")) == (b"", b"no")
    assert formats.exit_code(2, 3) == b"command terminated with non-zero exit code: exit status 3"


def test_a_token_works_once_and_for_a_minute() -> None:
    tokens, offer = Tokens(), Offer("exec", object())
    token = tokens.add(offer, 100.0)
    assert tokens.take("x", 100.0) is None
    assert tokens.take(token, 100.0 + LIFE_S - 0.1) == offer
    assert tokens.take(token, 100.0) is None
    late = tokens.add(offer, 100.0)
    assert tokens.take(late, 100.0 + LIFE_S) is None


def test_tokens_are_bounded_and_the_oldest_are_dropped() -> None:
    tokens = Tokens()
    made = {tokens.add(Offer("exec", number), 10.0 + number / MOST) for number in range(MOST)}
    assert len(made) == MOST and min(map(len, made)) >= 22
    with pytest.raises(NoSpace):
        tokens.add(Offer("exec", 0), 11.0)
    tokens.add(Offer("exec", 0), 10.0 + LIFE_S)


SPDY = {"connection": ["keep-alive, Upgrade"], "upgrade": ["SPDY/3.1"]}
WS = {
    "connection": ["Upgrade"],
    "upgrade": ["WebSocket"],
    "sec-websocket-version": ["13"],
    "sec-websocket-key": ["dGhlIHNhbXBsZSBub25jZQ=="],
}
OFFER = "x-stream-protocol-version"
UPGRADES = [
    ("exec", SPDY | {OFFER: ["v5.channel.k8s.io", "v4.channel.k8s.io"]}, ("spdy", "v4.channel.k8s.io", 4)),
    ("exec", SPDY | {OFFER: ["v4.channel.k8s.io, v3.channel.k8s.io"]}, ("spdy", "v4.channel.k8s.io", 4)),
    ("attach", SPDY | {OFFER: ["x", "channel.k8s.io"]}, ("spdy", "channel.k8s.io", 1)),
    ("portforward", SPDY | {OFFER: ["portforward.k8s.io"]}, ("spdy", "portforward.k8s.io", 1)),
    ("exec", WS | {"sec-websocket-protocol": ["v5.channel.k8s.io"]}, ("websocket", "v5.channel.k8s.io", 5)),
    ("exec", WS | {"sec-websocket-protocol": ["x,channel.k8s.io"]}, ("websocket", "channel.k8s.io", 1)),
    (
        "portforward",
        WS | {"sec-websocket-protocol": ["SPDY/3.1+portforward.k8s.io"]},
        ("websocket", "SPDY/3.1+portforward.k8s.io", 1),
    ),
    ("exec", {}, 400),
    ("exec", {"connection": ["Upgrade"]}, 400),
    ("exec", {"upgrade": ["SPDY/3.1"]}, 400),
    ("exec", SPDY, 400),
    ("exec", SPDY | {"upgrade": ["SPDY/2"]}, 400),
    ("exec", SPDY | {OFFER: ["portforward.k8s.io"]}, 403),
    ("portforward", SPDY | {OFFER: ["v4.channel.k8s.io"]}, 403),
    ("exec", WS, 403),
    ("exec", WS | {"sec-websocket-version": ["8"]}, 426),
    ("exec", WS | {"sec-websocket-key": []}, 400),
]


@pytest.mark.parametrize(("kind", "headers", "expected"), UPGRADES)
def test_the_first_offer_that_is_known_is_taken(
    kind: str, headers: dict[str, list[str]], expected: tuple[str, str, int] | int
) -> None:
    result = decide(kind, headers)
    if isinstance(expected, int):
        assert isinstance(result, Refusal) and result.status == expected and result.sentence
    else:
        assert isinstance(result, Upgrade) and (result.transport, result.protocol, result.version) == expected


def test_the_answer_to_a_websocket_is_the_rfcs() -> None:
    result = decide("exec", WS | {"sec-websocket-protocol": ["v5.channel.k8s.io"]})
    assert ("Sec-WebSocket-Accept", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=") in result.headers
