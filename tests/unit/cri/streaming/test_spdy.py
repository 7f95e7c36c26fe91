# SPDX-License-Identifier: Apache-2.0
"""The SPDY codec: vectors by hand, any cut of the bytes, and no bytes that could do more harm than end a connection."""

import struct
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cri.streaming import spdy
from cri.streaming.spdy import CHECKSUM, Codec, Data, GoAway, Opened, Ping, Reset, SpdyFault, dictionary


class Client:
    """The other end's headers, packed with zlib alone."""

    def __init__(self) -> None:
        self._pack = zlib.compressobj(9, zlib.DEFLATED, 15, 9, zlib.Z_DEFAULT_STRATEGY, dictionary())

    def block(self, raw: bytes) -> bytes:
        return self._pack.compress(raw) + self._pack.flush(zlib.Z_SYNC_FLUSH)

    def open(self, stream: int, headers: dict[str, str], flags: int = 0) -> bytes:
        raw = struct.pack(">I", len(headers))
        for text in (text.encode("latin-1") for pair in headers.items() for text in pair):
            raw += struct.pack(">I", len(text)) + text
        return frame(1, struct.pack(">IIBB", stream, 0, 0, 0) + self.block(raw), flags)


def frame(kind: int, body: bytes, flags: int = 0, version: int = 3) -> bytes:
    """A control frame, written out."""
    return struct.pack(">HHI", 0x8000 | version, kind, flags << 24 | len(body)) + body


def test_the_dictionary_is_the_protocols() -> None:
    text = dictionary()
    assert (len(text), zlib.adler32(text), zlib.crc32(text)) == (1423, CHECKSUM, 0x04C8490E)


# What kubelet's library sends: a stream whose header block was packed by another implementation of zlib would differ in
# its bytes, so this is only the frame's head and the meaning.
VECTORS = [
    ("80030006000000040000000b", [Ping(11)]),
    ("80030006000000040000000a", []),  # an even number: an answer to a PING that we never send
    ("80030003000000080000000500000005", [Reset(5, 5)]),
    ("80030007000000080000000000000000", [GoAway()]),
    ("8003000400000004deadbeef", []),
    ("80030009000000080000000100010000", []),
    ("00000003000000026869", [Data(3, b"hi", False)]),
    ("00000003010000026869", [Data(3, b"hi", True)]),
    ("0000000301000000", [Data(3, b"", True)]),
]


@pytest.mark.parametrize(("text", "events"), VECTORS)
def test_frames_are_parsed_as_the_protocol_defines(text: str, events: list[object]) -> None:
    assert Codec().receive(bytes.fromhex(text)) == events


WRONG = [
    ("8002000600000004000000010", "version 2"),
    ("800300060000000400000000", "PING"),
    ("800300060100000400000001", "PING"),
    ("80030003000000040000000100", "4 bytes where 8"),
    ("8003000600010001", "65537 bytes"),
    ("0000000000000000", "stream 0"),
    ("800300010000000a00000002000000000000", "stream 2"),
    ("8003000100000004000000010", "4 bytes where 8"),
    ("800300010000000e000000010000000000001234abcd", "unpacked"),
]


@pytest.mark.parametrize(("text", "why"), WRONG)
def test_what_breaks_the_rules_is_a_fault(text: str, why: str) -> None:
    with pytest.raises(SpdyFault, match=why):
        Codec().receive(bytes.fromhex(text[: len(text) // 2 * 2]))


def test_headers_are_read_in_order_and_in_lower_case() -> None:
    client, codec = Client(), Codec()
    first = codec.receive(client.open(1, {"Streamtype": "error", "two": "a\0b"}))
    second = codec.receive(client.open(3, {"streamtype": "stdin"}, flags=1))
    assert first == [Opened(1, {"streamtype": "error", "two": "a,b"}, False)]
    assert second == [Opened(3, {"streamtype": "stdin"}, True)]


def test_a_block_that_unpacks_to_too_much_is_a_fault() -> None:
    client = Client()
    bomb = frame(1, struct.pack(">IIBB", 1, 0, 0, 0) + client.block(b"\0" * (1 << 24)))
    assert len(bomb) < spdy.MAX_CONTROL
    with pytest.raises(SpdyFault, match=f"more than {spdy.MAX_HEADERS}"):
        Codec().receive(bomb)


@pytest.mark.parametrize(
    "raw", [b"", b"\0\0\0", b"\xff\xff\xff\xff", struct.pack(">III", 1, 9, 0), b"\0\0\0\1" + b"\xff" * 8]
)
def test_blocks_that_are_cut_off_or_lie_are_faults(raw: bytes) -> None:
    with pytest.raises(SpdyFault):
        Codec().receive(frame(1, struct.pack(">IIBB", 1, 0, 0, 0) + Client().block(raw)))


def test_what_the_server_sends_is_what_a_client_reads() -> None:
    codec, unpack = Codec(), zlib.decompressobj(zdict=dictionary())
    for stream in (1, 3, 5):
        sent = codec.reply(stream)
        assert sent[:4] == b"\x80\x03\0\2" and int.from_bytes(sent[5:8], "big") == len(sent) - 8
        assert sent[8:12] == struct.pack(">I", stream) and unpack.decompress(sent[12:]) == b"\0\0\0\0"
    assert spdy.data(3, b"hi").hex() == "00000003000000026869"
    assert spdy.data(3, b"", fin=True).hex() == "0000000301000000"
    assert spdy.reset(5, spdy.CANCEL).hex() == "80030003000000080000000500000005"
    assert spdy.pong(Ping(11)).hex() == "80030006000000040000000b"
    assert spdy.goaway(7).hex() == "80030007000000080000000700000000"


NAMES = st.text(st.characters(codec="latin-1", exclude_characters="\0"), max_size=12).map(str.lower)
ACTION = st.one_of(
    st.tuples(st.just("open"), st.dictionaries(st.from_regex("[a-z-]{1,9}", fullmatch=True), NAMES, max_size=4)),
    st.tuples(st.just("data"), st.binary(max_size=300)),
    st.tuples(st.just("ping"), st.integers(0, 2**30)),
)


@given(st.lists(ACTION, max_size=12), st.lists(st.integers(1, 40), min_size=1, max_size=8))
def test_any_cut_of_the_bytes_means_the_same(actions: list[tuple[str, object]], cuts: list[int]) -> None:
    client, wire, number = Client(), b"", 1
    opened, received, pings = [], b"", []
    for kind, value in actions:
        if kind == "open":
            wire += client.open(number, value)  # type: ignore[arg-type]
            opened.append(Opened(number, value, False))  # type: ignore[arg-type]
            number += 2
        elif kind == "data":
            wire += spdy.data(1, value)  # type: ignore[arg-type]
            received += value  # type: ignore[operator]
        else:
            wire += frame(6, struct.pack(">I", 2 * value + 1))  # type: ignore[operator]
            pings.append(Ping(2 * value + 1))  # type: ignore[operator]
    codec, events, at, round_ = Codec(), [], 0, 0
    while at < len(wire):
        size = cuts[round_ % len(cuts)]
        events += codec.receive(wire[at : at + size])
        at, round_ = at + size, round_ + 1
    assert [event for event in events if isinstance(event, Opened)] == opened
    assert b"".join(event.data for event in events if isinstance(event, Data)) == received
    assert [event for event in events if isinstance(event, Ping)] == pings


@given(st.lists(st.binary(max_size=80), max_size=6), st.booleans())
def test_any_bytes_are_understood_or_a_fault_and_nothing_worse(pieces: list[bytes], is_frame: bool) -> None:
    codec = Codec()
    try:
        for piece in pieces:
            codec.receive(frame(1 + len(piece) % 9, piece) if is_frame else piece)
            assert len(codec._buffer) < spdy.MAX_CONTROL + 8 + len(piece)
    except SpdyFault:
        pass


def test_a_long_data_frame_is_handed_on_as_it_comes() -> None:
    codec = Codec()
    head = struct.pack(">II", 1, 0xFFFFFF)
    assert codec.receive(head) == []
    for _ in range(200):
        assert codec.receive(b"x" * 65536) == [Data(1, b"x" * 65536, False)]
        assert len(codec._buffer) == 0
