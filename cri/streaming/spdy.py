# SPDX-License-Identifier: Apache-2.0
"""SPDY/3.1 as Kubernetes speaks it: bytes in, frames out, and back. Pure. docs/dev/cri.md has the dialect.

Used by `spdy_session`. One `Codec` per connection, since each direction's headers are one zlib stream. This dialect
has no flow control, and the server opens no streams. The client is not trusted: a violation raises
SpdyFault, memory for the client is limited, and data frames are passed on in pieces (docs/design/streams.md).
"""

import zlib
from collections.abc import Iterator
from struct import Struct
from typing import NamedTuple

SYN_STREAM, SYN_REPLY, RST_STREAM, SETTINGS, PING, GOAWAY, HEADERS, WINDOW_UPDATE = 1, 2, 3, 4, 6, 7, 8, 9
FIN, UNIDIRECTIONAL = 1, 2
PROTOCOL_ERROR, INVALID_STREAM, REFUSED_STREAM, CANCEL = 1, 2, 3, 5

MAX_CONTROL = 1 << 16
"""Longest control frame that is taken."""
MAX_HEADERS, MOST_HEADERS = 1 << 13, 64
"""Most bytes that a header block may unpack to, and most names in it. Clients of Kubernetes send three."""
CHUNK = 32768
"""Longest data frame that is sent."""

_HEAD = Struct(">II")
_U32 = Struct(">I")
_CONTROL = 0x80030000
_ID = 0x7FFFFFFF


class SpdyFault(Exception):
    """The client does not speak SPDY/3.1: the connection must be closed."""


class Opened(NamedTuple):
    """The client opened a stream. With `fin` it will send nothing there."""

    stream: int
    headers: dict[str, str]
    fin: bool


class Data(NamedTuple):
    """A piece of data; `fin`: the client sends nothing more on this stream."""

    stream: int
    data: bytes
    fin: bool


class Reset(NamedTuple):
    """The client wants nothing more of the stream."""

    stream: int
    status: int


class Ping(NamedTuple):
    """A PING to be sent back unchanged."""

    number: int


class GoAway(NamedTuple):
    """The client will open no more streams."""


Event = Opened | Data | Reset | Ping | GoAway


class Codec:
    """Both directions of one connection, the server's side."""

    def __init__(self) -> None:
        preset = dictionary()
        # The smallest window: what we pack are empty headers, and the usual one takes 400 KB of memory.
        self._pack = zlib.compressobj(1, zlib.DEFLATED, 10, 1, zlib.Z_DEFAULT_STRATEGY, preset)
        self._unpack = zlib.decompressobj(zdict=preset)
        self._buffer = bytearray()
        self._stream = self._left = 0  # of the data frame whose middle we are in
        self._fin = False

    def receive(self, data: bytes) -> list[Event]:
        """Parse bytes; return their events. Raises SpdyFault; after that the codec can't be used."""
        return [event for event in self.events(data) if event is not None]

    def events(self, data: bytes) -> Iterator[Event | None]:
        """Like `receive`, but yields frame by frame; None for a frame without meaning."""
        self._buffer += data
        events: list[Event] = []
        while self._take_data(events) if self._left else self._take_head(events):
            yield events.pop() if events else None

    def _take_data(self, events: list[Event]) -> bool:
        piece = bytes(self._buffer[: self._left])
        if not piece:
            return False
        del self._buffer[: len(piece)]
        self._left -= len(piece)
        events.append(Data(self._stream, piece, self._fin and not self._left))
        return True

    def _take_head(self, events: list[Event]) -> bool:
        if len(self._buffer) < _HEAD.size:
            return False
        first, second = _HEAD.unpack_from(self._buffer)
        flags, length = second >> 24, second & 0xFFFFFF
        if first > _ID:
            return self._take_control(events, first, flags=flags, length=length)
        if not first:
            raise SpdyFault("a data frame of stream 0")
        del self._buffer[: _HEAD.size]
        self._stream, self._left, self._fin = first, length, bool(flags & FIN)
        if not length:
            events.append(Data(first, b"", self._fin))
        return True

    def _take_control(self, events: list[Event], first: int, *, flags: int, length: int) -> bool:
        if first & 0xFFFF0000 != _CONTROL:
            raise SpdyFault(f"a control frame of version {first >> 16 & 0x7FFF}, not 3")
        if length > MAX_CONTROL:
            raise SpdyFault(f"a control frame of {length} bytes")
        end = _HEAD.size + length
        if len(self._buffer) < end:
            return False
        body = bytes(self._buffer[_HEAD.size : end])
        del self._buffer[:end]
        event = self._control(first & 0xFFFF, flags, body=body)
        if event is not None:
            events.append(event)
        return True

    def _control(self, kind: int, flags: int, *, body: bytes) -> Event | None:
        if kind == SYN_STREAM:
            return self._opened(flags, body)
        if kind == RST_STREAM:
            stream, status = _numbers(body, 2)
            return Reset(stream & _ID, status)
        if kind == PING:
            (number,) = _numbers(body, 1)
            if not number or flags:
                raise SpdyFault("an invalid PING")
            return Ping(number) if number % 2 else None
        if kind == GOAWAY:
            return GoAway()
        if kind in (SYN_REPLY, HEADERS):
            self._headers(body[4:])  # for the zlib stream's sake
        return None  # SETTINGS, WINDOW_UPDATE and what may come later mean nothing here

    def _opened(self, flags: int, body: bytes) -> Opened:
        stream = _numbers(body[:8], 2)[0] & _ID
        if not stream % 2 or len(body) < 10:
            raise SpdyFault(f"the client may not open stream {stream}")
        return Opened(stream, self._headers(body[10:]), bool(flags & FIN))

    def _headers(self, packed: bytes) -> dict[str, str]:
        """Names are lower case; several values of one name are joined by commas."""
        try:
            raw = self._unpack.decompress(packed, MAX_HEADERS + 1)
        except zlib.error as error:
            raise SpdyFault(f"headers that can't be unpacked: {error}") from None
        if len(raw) > MAX_HEADERS or self._unpack.unconsumed_tail:
            raise SpdyFault(f"headers of more than {MAX_HEADERS} bytes")
        texts = iter(_texts(raw))
        return {name.lower(): value.replace("\0", ",") for name, value in zip(texts, texts, strict=True)}

    # What the server sends

    def reply(self, stream: int) -> bytes:
        """SYN_REPLY without headers. Send it before anything that is packed later."""
        block = self._pack.compress(_U32.pack(0)) + self._pack.flush(zlib.Z_SYNC_FLUSH)
        return control(SYN_REPLY, _U32.pack(stream) + block)


def control(kind: int, body: bytes) -> bytes:
    """A control frame."""
    return _HEAD.pack(_CONTROL | kind, len(body)) + body


def data(stream: int, piece: bytes, *, fin: bool = False) -> bytes:
    """A data frame; `piece` has less than 16 MiB."""
    return _HEAD.pack(stream, (FIN if fin else 0) << 24 | len(piece)) + piece


def reset(stream: int, status: int) -> bytes:
    """RST_STREAM."""
    return control(RST_STREAM, _HEAD.pack(stream, status))


def pong(ping: Ping) -> bytes:
    """The answer to a PING."""
    return control(PING, _U32.pack(ping.number))


def goaway(last_stream: int) -> bytes:
    """GOAWAY with the status OK."""
    return control(GOAWAY, _HEAD.pack(last_stream, 0))


def _numbers(body: bytes, count: int) -> tuple[int, ...]:
    if len(body) != 4 * count:
        raise SpdyFault(f"a control frame with {len(body)} bytes where {4 * count} belong")
    return tuple(number for (number,) in _U32.iter_unpack(body))


def _texts(raw: bytes) -> list[str]:
    """The names and values of an unpacked header block, in turns."""
    if len(raw) < _U32.size:
        raise SpdyFault("headers that are cut off")
    texts, at, (count,) = [], _U32.size, _U32.unpack_from(raw)
    if count > min(MOST_HEADERS, len(raw) // 8):
        raise SpdyFault(f"{count} headers in {len(raw)} bytes")
    for _ in range(2 * count):
        size = int.from_bytes(raw[at : at + 4], "big")
        at += 4 + size
        if at > len(raw):
            raise SpdyFault("headers that are cut off")
        texts.append(raw[at - size : at].decode("latin-1"))
    return texts


# -- The dictionary ----------------------------------------------------------------------------------------------------
# SPDY/3 presets zlib with it: a constant of the protocol.


_TOKENS = """
    options|head|post|put|delete|trace|accept|accept-charset|accept-encoding|accept-language|accept-ranges|age|allow|
    authorization|cache-control|connection|content-base|content-encoding|content-language|content-length|
    content-location|content-md5|content-range|content-type|date|etag|expect|expires|from|host|if-match|
    if-modified-since|if-none-match|if-range|if-unmodified-since|last-modified|location|max-forwards|pragma|
    proxy-authenticate|proxy-authorization|range|referer|retry-after|server|te|trailer|transfer-encoding|upgrade|
    user-agent|vary|via|warning|www-authenticate|method|get|status|200 OK|version|HTTP/1.1|url|public|set-cookie|
    keep-alive|origin
"""
_TAIL = (
    "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505"
    "203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized403 Forbidden"
    "404 Not Found500 Internal Server Error501 Not Implemented503 Service Unavailable"
    "Jan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMT"
    "chunked,text/html,image/png,image/jpg,image/gif,application/xml,application/xhtml+xml,text/plain,text/javascript,"
    "publicprivatemax-age=gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0."
)
CHECKSUM = 0xE3C6A7C2
"""adler32 of the dictionary; zlib streams name it by that."""


def dictionary() -> bytes:
    """Return the dictionary of SPDY/3, 1423 bytes: each token behind its length, then the tail."""
    tokens = [token.strip().encode() for token in _TOKENS.split("|")]
    made = b"".join(len(token).to_bytes(4, "big") + token for token in tokens) + _TAIL.encode()
    assert zlib.adler32(made) == CHECKSUM, "the dictionary of SPDY/3 was changed"
    return made
