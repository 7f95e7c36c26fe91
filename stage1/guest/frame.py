# SPDX-License-Identifier: Apache-2.0
"""Frames of the link: the header codec, and a splitter that cuts a byte stream into frames. docs/dev/link.md,
"Frames".

Used by both ends: `link.py` here, the fake guest of the tests there. Pure: bytes in, frames out, no I/O. It
knows nothing of streams, sequence numbers or messages.
"""

from struct import Struct
from typing import NamedTuple

HELLO, ACK, REQUEST, REPLY, EVENT, DATA, CREDIT = range(1, 8)
END = 1  # flag of DATA: nothing follows on this stream
HEADER_BYTES = 20
MAX_PAYLOAD = 32768
MAX_DATA = 16384  # payload of one DATA frame
MAX_HELLO = 1024
MAX_FALSE_MARKERS = 64  # on one connection: the secret key is in no other bytes, but its bytes can be cut off
WINDOW = 65536  # credit that the sender of a stream starts with
RING = 256 * 1024  # what a sender keeps until it is acknowledged
MARKER_BYTES = 16
START = b"\x00clearpod-link\x01\n"  # marker of the first connection; later the pod's key is

_HEADER = Struct("<IBBHIQ")
_U32 = Struct("<I")
_PATTERN_BYTES = MARKER_BYTES + HEADER_BYTES


class Frame(NamedTuple):
    """One frame. `stream` and `seq` are 0 where the kind has none."""

    kind: int
    flags: int
    stream: int
    seq: int
    payload: bytes


def pack(kind: int, payload: bytes = b"", *, stream: int = 0, seq: int = 0, flags: int = 0) -> bytes:
    """Return the bytes of one frame. The caller keeps `payload` within MAX_PAYLOAD."""
    return _HEADER.pack(len(payload), kind, flags, 0, stream, seq) + payload


def cut(buffer: bytearray) -> Frame | None:
    """Take the frame out that `buffer` begins with; None while it is not whole. Raises ValueError when it is none."""
    if len(buffer) < HEADER_BYTES:
        return None
    length, kind, flags, _, stream, seq = _HEADER.unpack_from(buffer)
    if not HELLO <= kind <= CREDIT or length > MAX_PAYLOAD:
        raise ValueError(f"a frame of kind {kind} with {length} bytes")
    end = HEADER_BYTES + length
    if len(buffer) < end:
        return None
    result = Frame(kind, flags, stream, seq, bytes(buffer[HEADER_BYTES:end]))
    del buffer[:end]
    return result


def credit_payload(amount: int) -> bytes:
    """Return the payload of a CREDIT frame that gives `amount` bytes."""
    return _U32.pack(amount)


def credit_amount(payload: bytes) -> int:
    """Return the bytes that a CREDIT frame gives; 0, which no sender writes, when the payload is not four
    bytes."""
    return int(_U32.unpack(payload)[0]) if len(payload) == _U32.size else 0


class Splitter:
    """Cuts received bytes into frames.

    It starts unsynchronised and drops bytes until a marker with the header of a HELLO right behind it. From then on it
    still searches for the marker everywhere, since a peer that died left half a frame. The HELLO's header is part of
    the pattern because the host's HELLO has the key in its own payload.

    `lost` is the reason why frames stopped ("" when they did not). Holds at most one frame and what `feed` was given.
    """

    def __init__(self, *markers: bytes) -> None:
        self.restart(*markers)

    def restart(self, *markers: bytes) -> None:
        """Forget all bytes: a new connection. Any of `markers` may start it."""
        self.markers = markers
        self.synced = False
        self.lost = ""
        self.false_markers = 0  # markers without the header of a HELLO behind them
        self._buffer = bytearray()
        self._at = 0  # where the next frame begins
        self._mark = -1  # the next marker
        self._hello = False  # the frame at _at follows a marker
        self._hello_at = 0  # payload of the frame that was taken last

    def expect(self, *markers: bytes) -> None:
        """Look for these markers from here on, also in what was already fed."""
        self.markers = markers
        self._find(self._at)

    def lose(self, why: str) -> None:
        """Fall back to unsynchronised."""
        self.synced, self.lost = False, why

    def reject_hello(self) -> None:
        """The HELLO that `take` just returned is none, or not for us: look on behind its marker.

        It may be half of one, with the marker of the next in what was taken for its payload.
        """
        self.synced, self._at = False, self._hello_at
        self._find(self._at)

    def feed(self, data: bytes) -> None:
        """Append received bytes; call `take` until it returns None."""
        buffer = self._buffer
        if self._at:
            del buffer[: self._at]
            self._mark -= self._at if self._mark >= 0 else 0
            self._at = 0
        seen = len(buffer)
        buffer += data
        if self._mark < 0:
            self._find(max(0, seen - _PATTERN_BYTES + 1))

    def take(self) -> Frame | None:
        """Return the next frame, or None when more bytes are needed. Look at `lost` then."""
        while self.synced or self._seek():
            end = self._mark if self._mark >= 0 else len(self._buffer)
            if self._at + HEADER_BYTES <= end:
                length, kind, flags, zero, stream, seq = _HEADER.unpack_from(self._buffer, self._at)
                if why := self._wrong(length, kind, bits=flags | zero):
                    self.lose(why)
                    continue
                body = self._at + HEADER_BYTES
                if body + length <= end:
                    self._hello_at, self._at, self._hello = body, body + length, False
                    return Frame(kind, flags, stream, seq, bytes(memoryview(self._buffer)[body : self._at]))
            if self._mark < 0:
                return None
            self.synced = False  # a marker inside a frame: the frame was cut off
        return None

    def _wrong(self, length: int, kind: int, *, bits: int) -> str:
        if length > MAX_PAYLOAD:
            return f"a frame of {length} bytes"
        if not HELLO <= kind <= CREDIT or bits > END or (bits and kind != DATA):
            return f"a frame of kind {kind} with flags {bits:#x}"
        if (kind == HELLO) != self._hello:
            return "a HELLO that no marker announced" if kind == HELLO else "no HELLO behind the marker"
        return ""

    def _seek(self) -> bool:
        """Move behind the next marker; without one keep only what may be the beginning of one."""
        if self._mark < 0:
            self._at = max(self._at, len(self._buffer) - _PATTERN_BYTES + 1)
            return False
        self._at = self._mark + MARKER_BYTES
        self.synced, self.lost, self._hello = True, "", True
        self._find(self._at)
        return True

    def _find(self, start: int) -> None:
        marks = [at for marker in self.markers if (at := self._find_one(marker, start)) >= 0]
        self._mark = min(marks, default=-1)

    def _find_one(self, marker: bytes, start: int) -> int:
        buffer = self._buffer
        while (at := buffer.find(marker, start)) >= 0:
            if len(buffer) < at + _PATTERN_BYTES:
                return -1
            length, *rest = _HEADER.unpack_from(buffer, at + MARKER_BYTES)
            if length <= MAX_HELLO and rest == [HELLO, 0, 0, 0, 0]:
                return at
            start = at + 1
            self.false_markers += 1
            if self.false_markers > MAX_FALSE_MARKERS:
                return -1
        return -1
