# SPDX-License-Identifier: Apache-2.0
"""A WebSocket client of the streaming server (RFC 6455, what is needed of it), and the HTTP upgrade.

Used by the tests of exec, attach and port-forward, and by `spdy_client`. It shares no code with the server.
"""

import asyncio
import base64
import hashlib
import os
import struct
from urllib.parse import urlsplit

GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Refused(Exception):
    """The answer was not 101; `status` and `head` are from it."""

    def __init__(self, status: int, head: str) -> None:
        self.status, self.head = status, head
        super().__init__(f"{status}: {head}")


_guards: set["asyncio.Task[None]"] = set()


async def _close_with_loop(writer: asyncio.StreamWriter) -> None:
    """A client that its test has left open ends with the test, whose loop cancels this then."""
    try:
        await writer.wait_closed()
    except ConnectionError:
        pass
    finally:
        writer.transport.abort()
        await asyncio.sleep(0)


async def upgrade(url: str, headers: list[tuple[str, str]], method: str) -> tuple[dict[str, str], Streams]:
    """Send a request; the headers of the 101 and the connection. Raises Refused."""
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port, limit=1 << 18)
    guard = asyncio.ensure_future(_close_with_loop(writer))
    _guards.add(guard)
    guard.add_done_callback(_guards.discard)
    lines = [f"{method} {parts.path} HTTP/1.1", f"Host: {parts.netloc}", *(f"{k}: {v}" for k, v in headers)]
    writer.write("\r\n".join([*lines, "", ""]).encode())
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    status = int(head.split(" ", 2)[1])
    if status != 101:
        writer.close()
        raise Refused(status, head)
    result = dict(line.split(": ", 1) for line in head.split("\r\n")[1:] if line)
    return {name.lower(): value for name, value in result.items()}, (reader, writer)


class WebSocketClient:
    """`read` gives the payload of the next data message, b"" when the server has closed."""

    def __init__(self, streams: Streams, protocol: str) -> None:
        self.protocol = protocol
        self._reader, self._writer = streams
        self._mask = os.urandom(4)
        self.pongs: list[bytes] = []
        self.close_code = 0

    @classmethod
    async def connect(cls, url: str, protocols: tuple[str, ...]) -> "WebSocketClient":
        """Raises Refused."""
        key = base64.b64encode(os.urandom(16)).decode()
        headers = [("Connection", "keep-alive, Upgrade"), ("Upgrade", "websocket"), ("Sec-WebSocket-Version", "13")]
        headers += [("Sec-WebSocket-Key", key), ("Sec-WebSocket-Protocol", ", ".join(protocols))]
        answer, streams = await upgrade(url, headers, "GET")
        assert answer["sec-websocket-accept"] == base64.b64encode(hashlib.sha1((key + GUID).encode()).digest()).decode()
        return cls(streams, answer["sec-websocket-protocol"])

    async def write(self, data: bytes) -> None:
        """One binary message."""
        await self.frame(2, data)

    async def frame(self, kind: int, data: bytes, *, final: bool = True) -> None:
        """One frame, masked."""
        size = len(data)
        head = bytes([(0x80 if final else 0) | kind])
        if size < 126:
            head += bytes([0x80 | size])
        else:
            head += bytes([0xFE]) + struct.pack(">H", size) if size < 65536 else b"\xff" + struct.pack(">Q", size)
        pad = (self._mask * (size // 4 + 1))[:size]
        masked = (int.from_bytes(data, "little") ^ int.from_bytes(pad, "little")).to_bytes(size, "little")
        self._writer.write(head + self._mask + masked)
        await self._writer.drain()

    async def read(self) -> bytes:
        """The next data message."""
        whole = b""
        while True:
            try:
                first, size = await self._reader.readexactly(2)
                if size > 125:
                    size = int.from_bytes(await self._reader.readexactly(2 if size == 126 else 8), "big")
                data = await self._reader.readexactly(size)
            except (asyncio.IncompleteReadError, ConnectionError):
                return b""
            if first & 15 == 8:
                self.close_code = int.from_bytes(data[:2], "big")
                return b""
            if first & 15 == 10:
                self.pongs.append(data)
                continue
            whole += data
            if first & 0x80:
                return whole

    def close(self) -> None:
        """Vanish."""
        self._writer.transport.abort()
