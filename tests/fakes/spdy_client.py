# SPDX-License-Identifier: Apache-2.0
"""A SPDY/3.1 client of the streaming server, as kubelet and crictl are; also through a WebSocket.

Used by the tests of exec, attach and port-forward. Written apart from `cri.streaming.spdy`, so that the two check each
other; only the dictionary is the same.
"""

import asyncio
import struct
import zlib
from typing import Protocol

from cri.streaming.spdy import dictionary
from tests.fakes.patience import PATIENCE
from tests.fakes.websocket_client import WebSocketClient, upgrade

V4 = ("v4.channel.k8s.io", "v3.channel.k8s.io", "v2.channel.k8s.io", "channel.k8s.io")


class Pipe(Protocol):
    """What carries the bytes."""

    async def read(self) -> bytes: ...

    async def write(self, data: bytes) -> None: ...

    def close(self) -> None: ...


class _Socket:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def read(self) -> bytes:
        try:
            return await self._reader.read(1 << 18)
        except ConnectionError:
            return b""

    async def write(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    def close(self) -> None:
        self._writer.transport.abort()


class Stream:
    """One stream. `data` is what came, `ended` is set at its end, `reset` is the status of a RST_STREAM."""

    def __init__(self, client: "SpdyClient", number: int) -> None:
        self.number, self.data, self.reset = number, bytearray(), 0
        self.replied, self.ended = asyncio.Event(), asyncio.Event()
        self._client = client

    async def send(self, data: bytes, *, fin: bool = False) -> None:
        for at in range(0, len(data), 32768):
            piece = data[at : at + 32768]
            await self._client.write(struct.pack(">II", self.number, len(piece)) + piece)
        if fin:
            await self._client.write(struct.pack(">II", self.number, 1 << 24))

    async def cancel(self) -> None:
        await self._client.control(3, struct.pack(">II", self.number, 5))


class SpdyClient:
    """`connect` or `tunnel`, then `open` streams. `gone`: the server has closed; `goaway`: it has said so."""

    def __init__(self, pipe: Pipe) -> None:
        text = dictionary()
        self._pipe = pipe
        self._pack = zlib.compressobj(9, zlib.DEFLATED, 15, 9, zlib.Z_DEFAULT_STRATEGY, text)
        self._unpack = zlib.decompressobj(zdict=text)
        self._next = 1
        self.streams: dict[int, Stream] = {}
        self.pongs: list[int] = []
        self.goaway, self.gone = asyncio.Event(), asyncio.Event()
        self.reads = asyncio.Event()
        self.reads.set()
        self._task = asyncio.ensure_future(self._run())

    @classmethod
    async def connect(cls, url: str, protocols: tuple[str, ...] = V4, method: str = "POST") -> "SpdyClient":
        offers = [("X-Stream-Protocol-Version", name) for name in protocols]
        headers = [("Connection", "Upgrade"), ("Upgrade", "SPDY/3.1"), ("Content-Length", "0"), *offers]
        _, streams = await upgrade(url, headers, method)
        return cls(_Socket(*streams))

    @classmethod
    async def tunnel(cls, url: str) -> "SpdyClient":
        return cls(await WebSocketClient.connect(url, ("SPDY/3.1+portforward.k8s.io",)))

    async def open(self, streamtype: str, *, fin: bool = False, **more: str) -> Stream:
        """Open a stream and wait for the reply."""
        stream = self.streams[self._next] = Stream(self, self._next)
        self._next += 2
        pairs = {"streamtype": streamtype, **more}
        raw = struct.pack(">I", len(pairs))
        for name, value in pairs.items():
            for text in (name.encode(), value.encode()):
                raw += struct.pack(">I", len(text)) + text
        block = self._pack.compress(raw) + self._pack.flush(zlib.Z_SYNC_FLUSH)
        await self.control(1, struct.pack(">IIBB", stream.number, 0, 0, 0) + block, flags=int(fin))
        async with asyncio.timeout(20 * PATIENCE):
            await stream.replied.wait()
        return stream

    async def ping(self, number: int) -> None:
        await self.control(6, struct.pack(">I", number))

    async def control(self, kind: int, body: bytes, flags: int = 0) -> None:
        await self.write(struct.pack(">HHI", 0x8003, kind, flags << 24 | len(body)) + body)

    async def write(self, data: bytes) -> None:
        await self._pipe.write(data)

    def close(self) -> None:
        """Vanish."""
        self._task.cancel()
        self._pipe.close()

    async def _run(self) -> None:
        buffer = bytearray()
        while data := await self._pipe.read():
            buffer += data
            while len(buffer) >= 8 and len(buffer) >= 8 + (size := int.from_bytes(buffer[5:8], "big")):
                head, body = bytes(buffer[:8]), bytes(buffer[8 : 8 + size])
                del buffer[: 8 + size]
                self._take(head, body)
            await self.reads.wait()
        self._pipe.close()
        self.gone.set()
        for stream in self.streams.values():
            stream.ended.set()

    def _take(self, head: bytes, body: bytes) -> None:
        first = int.from_bytes(head[:4], "big")
        if not first >> 31:
            stream = self.streams[first]
            assert not stream.ended.is_set(), "data behind the end"
            stream.data += body
            if head[4] & 1:
                stream.ended.set()
            return
        assert first >> 16 == 0x8003
        kind, number = first & 0xFFFF, int.from_bytes(body[:4], "big")
        if kind == 2:
            assert self._unpack.decompress(body[4:]) == b"\0\0\0\0"
            self.streams[number].replied.set()
        elif kind == 3:
            stream = self.streams[number]
            stream.reset = int.from_bytes(body[4:], "big")
            stream.replied.set()
            stream.ended.set()
        elif kind == 6:
            self.pongs.append(number)
        else:
            assert kind == 7, f"a frame of kind {kind}"
            self.goaway.set()
