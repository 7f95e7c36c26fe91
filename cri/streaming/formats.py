# SPDX-License-Identifier: Apache-2.0
"""What is in the streams of exec and attach: Kubernetes' channels in a WebSocket, the status at the end, and the sizes
of a terminal. Pure.
"""

import json
from typing import NamedTuple

from stage1.errors import ERROR_KIND

# -- Channels ----------------------------------------------------------------------------------------------------------
# In the messages of a WebSocket, whose own frames are wsproto's: the first byte is the stream's number.
# docs/dev/cri.md has the format.


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


# -- The status --------------------------------------------------------------------------------------------------------
# The content of the error stream at the end. From version 4 of the protocol on it is always one JSON document,
# kubectl's `Status`; before, a message if something failed, else nothing.


FIRST_WITH_JSON = 4


def success(version: int) -> bytes:
    """Return the status of success."""
    return _document({"metadata": {}, "status": "Success"}) if version >= FIRST_WITH_JSON else b""


def exit_code(version: int, code: int) -> bytes:
    """Return the status of a command that ended with `code`."""
    if code == 0:
        return success(version)
    message = f"command terminated with non-zero exit code: exit status {code}"
    if version < FIRST_WITH_JSON:
        return message.encode()
    return _document({
        "metadata": {},
        "status": "Failure",
        "message": message,
        "reason": "NonZeroExitCode",
        "details": {"causes": [{"reason": "ExitCode", "message": str(code)}]},
    })  # fmt: skip


def failure(version: int, message: str, *, kind: str = "") -> bytes:
    """Return the status of a command that failed without an exit code; `kind` is the class of our error, which
    `clearpod exec` turns into an exit code.
    """
    if version < FIRST_WITH_JSON:
        return message.encode()
    details = {"details": {"causes": [{"reason": ERROR_KIND, "message": kind}]}} if kind else {}
    return _document({
        "metadata": {}, "status": "Failure", "message": message, "reason": "InternalError", "code": 500, **details,
    })  # fmt: skip


def _document(status: dict[str, object]) -> bytes:
    return json.dumps(status, separators=(",", ":")).encode()


# -- Sizes -------------------------------------------------------------------------------------------------------------
# The resize stream has JSON objects {"Width": 80, "Height": 24}, one behind the other.


LONGEST = 256
"""Bytes of one object, with some air."""
LATEST = 4096
"""Bytes that are looked at of what has come at once: a terminal has its last size."""


class Sizes:
    """Takes the stream as it arrives."""

    def __init__(self) -> None:
        self._rest = b""

    def receive(self, data: bytes) -> list[tuple[int, int]]:
        """Width and height of each of the latest sizes that are complete now; what is no size is thrown away."""
        sizes = []
        *whole, rest = (self._rest + data)[-LATEST:].split(b"}")
        for text in whole:
            try:
                size = json.loads(text[text.rfind(b"{") :][:LONGEST] + b"}")
                sizes.append((_size(size["Width"]), _size(size["Height"])))
            except (ValueError, KeyError, TypeError):
                continue
        self._rest = rest[-LONGEST:]
        return sizes


def _size(value: object) -> int:
    if type(value) is not int or not 0 <= value < 1 << 16:
        raise ValueError(value)
    return value
