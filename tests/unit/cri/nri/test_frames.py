# SPDX-License-Identifier: Apache-2.0
"""Frames of NRI's socket: messages survive any portions, and what breaks the rules is named."""

import struct

import pytest

from cri.nri import frames
from cri.nri.frames import PLUGIN, REQUEST, RESPONSE, RUNTIME, FrameFault, Message

MESSAGES = [
    Message(PLUGIN, 1, RESPONSE, b""),
    Message(RUNTIME, 1, REQUEST, b"x"),
    Message(PLUGIN, 3, RESPONSE, b"y" * 5000),
    Message(RUNTIME, 0xFFFFFFFF, REQUEST, b"z" * frames.FIRST_BYTES),
    Message(PLUGIN, 5, RESPONSE, b"w" * (100 << 10)),
]


@pytest.mark.parametrize("step", [1, 7, 8, 10, 4096, 1 << 20])
def test_messages_survive_any_portions(step: int) -> None:
    data, reader = b"".join(map(frames.pack, MESSAGES)), frames.Reader()
    result = [one for at in range(0, len(data), step) for one in reader.receive(data[at : at + step])]
    assert result == MESSAGES


def test_chunks_of_two_connections_may_alternate() -> None:
    streams = {connection: frames.pack(Message(connection, 1, 3 - connection, b"abc"))[8:] for connection in (1, 2)}
    pieces = [(connection, streams[connection][at : at + 2]) for at in range(0, 13, 2) for connection in (1, 2)]
    data = b"".join(struct.pack(">II", connection, len(part)) + part for connection, part in pieces)
    assert [one.connection for one in frames.Reader().receive(data)] == [1, 2]


def test_two_messages_may_be_one_chunk() -> None:
    both = b"".join(frames.pack(Message(PLUGIN, stream, RESPONSE, b"ab"))[8:] for stream in (1, 3))
    assert [one.stream for one in frames.Reader().receive(struct.pack(">II", PLUGIN, len(both)) + both)] == [1, 3]


@pytest.mark.parametrize("size", [0, 1, 4085, 4086, 4087, 8192, 1 << 20])
def test_a_message_is_sent_in_two_chunks_at_most_and_the_first_fits_gos_buffer(size: int) -> None:
    data, sizes = frames.pack(Message(PLUGIN, 1, REQUEST, bytes(size))), []
    while data:
        connection, length = struct.unpack_from(">II", data)
        assert connection == PLUGIN
        sizes.append(length)
        data = data[8 + length :]
    assert sum(sizes) == 10 + size
    assert len(sizes) <= 2
    assert sizes[0] <= 4096


BROKEN = {
    "connection 0": (0, b"x"),
    "connection 3": (3, b"x"),
    "a chunk of": (1, None),
    "a message of": (2, struct.pack(">IIBB", frames.TAKEN_BYTES + 1, 1, REQUEST, 0)),
    "type 3": (2, struct.pack(">IIBB", 0, 1, 3, 0)),
    "type 1 on connection 1": (1, struct.pack(">IIBB", 0, 1, REQUEST, 0)),
    "type 2 on connection 2": (2, struct.pack(">IIBB", 0, 1, RESPONSE, 0)),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_what_breaks_the_rules_is_named(fault: str) -> None:
    connection, data = BROKEN[fault]
    size = frames.MOST_CHUNK + 1 if data is None else len(data)
    with pytest.raises(FrameFault, match=fault):
        frames.Reader().receive(struct.pack(">II", connection, size) + (data or b""))


def test_a_message_that_no_peer_takes_is_not_sent() -> None:
    frames.pack(Message(PLUGIN, 1, REQUEST, bytes(frames.MESSAGE_BYTES)))
    with pytest.raises(FrameFault, match="at most"):
        frames.pack(Message(PLUGIN, 1, REQUEST, bytes(frames.MESSAGE_BYTES + 1)))
