# SPDX-License-Identifier: Apache-2.0
"""Frames of ttrpc, of two connections that share one socket. Pure: bytes in, messages out. Used by `link`.

The multiplexer gives each chunk a header: the connection's number and the chunk's length. Its chunks are a stream of
bytes for each connection, in which a message of ttrpc has another header: length, stream, type and flags. All numbers
are big-endian. What breaks the rules is a `FrameFault`, after which nothing of the connection counts.
"""

import struct
from typing import NamedTuple

PLUGIN, RUNTIME = 1, 2
"""Connections: on the first the plugin answers, on the other the runtime."""
REQUEST, RESPONSE = 1, 2
"""Types of messages. A third one, of streams with many messages, is not part of NRI."""

MESSAGE_BYTES = 4 << 20
"""The most that a message may hold."""
TAKEN_BYTES = 1 << 20
"""The most that one of a plugin's may: as many updates as are taken, of a KiB each. What can be put into one takes
thirty times of it in memory, and the daemon's time while it is decoded.
"""
FIRST_BYTES = 4096
"""Of the first chunk of a message; the rest is a second one. Go's ttrpc reads with a buffer of this size, into which
the multiplexer there must be able to put a whole chunk, and closes the socket when more than 256 chunks wait."""

_CHUNK, _MESSAGE = struct.Struct(">II"), struct.Struct(">IIBB")
MOST_CHUNK = _MESSAGE.size + TAKEN_BYTES


class FrameFault(Exception):
    """A violation of the protocol by the peer; the text describes it."""


class Message(NamedTuple):
    """One whole message of a connection."""

    connection: int
    stream: int
    type: int
    data: bytes


def pack(message: Message) -> bytes:
    """The bytes of one message. Raises FrameFault when it is too large for any peer."""
    if len(message.data) > MESSAGE_BYTES:
        raise FrameFault(f"a message has {len(message.data)} bytes, and at most {MESSAGE_BYTES} can be sent")
    whole = _MESSAGE.pack(len(message.data), message.stream, message.type, 0) + message.data
    chunks = (whole[:FIRST_BYTES], whole[FIRST_BYTES:])
    return b"".join(_CHUNK.pack(message.connection, len(one)) + one for one in chunks if one)


class Reader:
    """The plugin's bytes, in any portions. Keeps at most one unfinished message for each connection."""

    def __init__(self) -> None:
        self._header = bytearray()
        self._connection = self._left = 0
        self._begun = {PLUGIN: bytearray(), RUNTIME: bytearray()}

    def receive(self, data: bytes) -> list[Message]:
        """The messages that are complete now. Raises FrameFault."""
        messages: list[Message] = []
        view = memoryview(data)
        while view:
            if self._left:
                part, view = view[: self._left], view[self._left :]
                self._left -= len(part)
                messages += self._take(part)
            else:
                missing = _CHUNK.size - len(self._header)
                self._header += view[:missing]
                view = view[missing:]
                if len(self._header) == _CHUNK.size:
                    self._begin_chunk()
        return messages

    def _begin_chunk(self) -> None:
        self._connection, self._left = _CHUNK.unpack(self._header)
        self._header.clear()
        if self._connection not in self._begun:
            raise FrameFault(f"it sent to connection {self._connection}, and there are only {PLUGIN} and {RUNTIME}")
        if self._left > MOST_CHUNK:
            raise FrameFault(f"it sent a chunk of {self._left} bytes, and at most {MOST_CHUNK} are allowed")

    def _take(self, part: memoryview) -> list[Message]:
        """A part of the current connection's stream."""
        messages, begun = [], self._begun[self._connection]
        while part:
            size = self._size(begun)
            missing = size - len(begun)
            begun += part[:missing]
            part = part[missing:]
            if len(begun) == self._size(begun):
                _, stream, kind, _ = _MESSAGE.unpack_from(begun)
                messages.append(Message(self._connection, stream, kind, bytes(begun[_MESSAGE.size :])))
                begun.clear()
        return messages

    def _size(self, begun: bytearray) -> int:
        """How many bytes are wanted: the header's, or when that is there the whole message's."""
        if len(begun) < _MESSAGE.size:
            return _MESSAGE.size
        length, _, kind, _ = _MESSAGE.unpack_from(begun)
        if length > TAKEN_BYTES:
            raise FrameFault(f"it sent a message of {length} bytes, and at most {TAKEN_BYTES} are allowed")
        if kind != (RESPONSE if self._connection == PLUGIN else REQUEST):
            raise FrameFault(f"it sent a message of type {kind} on connection {self._connection}")
        return _MESSAGE.size + int(length)
