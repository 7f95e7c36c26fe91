# SPDX-License-Identifier: Apache-2.0
"""Kubernetes' channels in WebSocket messages: the first byte is the stream's number. Pure.

docs/dev/cri.md has the format. Used by `channel_session`. WebSocket's own frames are wsproto's; here is their payload.
"""

from typing import NamedTuple

STDIN, STDOUT, STDERR, ERROR, RESIZE, CLOSE = 0, 1, 2, 3, 4, 255
NAMES = {"stdin": STDIN, "stdout": STDOUT, "stderr": STDERR, "error": ERROR, "resize": RESIZE}
CHUNK = 32768
"""Longest payload of one message that is sent."""


class ChannelFault(Exception):
    """The client violates the protocol of the channels: the connection must be closed."""


class Piece(NamedTuple):
    """Data of the client's on a channel; `end`: nothing more comes there."""

    channel: int
    data: bytes
    end: bool


class Channels:
    """Takes the payload of messages as it arrives, in parts. `has_close`: from v5 on a channel can be half-closed."""

    def __init__(self, *, has_close: bool) -> None:
        self._has_close = has_close
        self._channel = -1  # of the message whose middle we are in

    def receive(self, data: bytes, *, message_ends: bool) -> list[Piece]:
        """Parse a part of a message; return its events. Raises ChannelFault."""
        pieces = []
        if self._channel < 0 and data:
            self._channel, data = data[0], data[1:]
        if self._channel == CLOSE and self._has_close:
            pieces = [Piece(channel, b"", True) for channel in data]
        elif data:
            if self._channel not in NAMES.values():
                raise ChannelFault(f"there is no channel {self._channel}")
            pieces = [Piece(self._channel, data, False)]
        if message_ends:
            self._channel = -1
        return pieces


def messages(channel: int, data: bytes) -> list[bytes]:
    """The messages that carry `data`."""
    head = bytes([channel])
    return [head + data[at : at + CHUNK] for at in range(0, len(data), CHUNK)]
