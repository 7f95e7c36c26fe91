# SPDX-License-Identifier: Apache-2.0
"""Exec and attach as a client sees them, the same over SPDY and over WebSocket: `Conversation`.

Used by the tests of the streaming server.
"""

import asyncio
import json
from typing import Any

from tests.fakes.patience import PATIENCE
from tests.fakes.spdy_client import SpdyClient, Stream
from tests.fakes.websocket_client import WebSocketClient

CHANNELS = {"stdin": 0, "stdout": 1, "stderr": 2, "error": 3, "resize": 4}


class Conversation:
    """`output` has what came by stream; `over` is set when the server has ended the connection."""

    def __init__(self) -> None:
        self.output = {"stdout": bytearray(), "stderr": bytearray(), "error": bytearray()}
        self.over = asyncio.Event()
        self.reads = asyncio.Event()
        """Clear it to stop reading from the server."""
        self.reads.set()

    async def send(self, data: bytes) -> None:
        """Standard input."""

    async def end_input(self) -> None:
        """Half-close standard input."""

    async def resize(self, width: int, height: int) -> None:
        """The terminal's size."""
        raise NotImplementedError

    def vanish(self) -> None:
        """Cut the connection."""

    async def until(self, text: bytes, name: str = "stdout", limit_s: float = 20) -> bytes:
        """Wait for `text` in the output."""
        async with asyncio.timeout(limit_s * PATIENCE):
            while text not in self.output[name]:
                assert not self.over.is_set(), self.output
                await asyncio.sleep(0.01)
        return bytes(self.output[name])

    async def status(self, limit_s: float = 60) -> Any:
        """Wait for the end; the status document."""
        async with asyncio.timeout(limit_s * PATIENCE):
            await self.over.wait()
        return json.loads(self.output["error"])

    async def exit_code(self, limit_s: float = 60) -> int:
        """Wait for the end; the exit code that the status tells."""
        status = await self.status(limit_s)
        if status["status"] == "Success":
            return 0
        assert status["reason"] == "NonZeroExitCode", status
        return int(status["details"]["causes"][0]["message"])


class OverSpdy(Conversation):
    """Streams of `client`."""

    def __init__(self, client: SpdyClient, streams: dict[str, Stream]) -> None:
        super().__init__()
        self.client, self._streams = client, streams
        self.reads = client.reads
        for name in self.output.keys() & streams.keys():
            self.output[name] = streams[name].data
        self.over = client.gone

    async def status(self, limit_s: float = 60) -> Any:
        async with asyncio.timeout(limit_s * PATIENCE):
            for stream in self._streams.values():
                await stream.ended.wait()
            await self.client.goaway.wait()
        self.client.close()
        return json.loads(self.output["error"])

    async def send(self, data: bytes) -> None:
        await self._streams["stdin"].send(data)

    async def end_input(self) -> None:
        await self._streams["stdin"].send(b"", fin=True)

    async def resize(self, width: int, height: int) -> None:
        await self._streams["resize"].send(json.dumps({"Width": width, "Height": height}).encode() + b"\n")

    def vanish(self) -> None:
        self.client.close()


class OverWebSocket(Conversation):
    """Channels of `client`."""

    def __init__(self, client: WebSocketClient) -> None:
        super().__init__()
        self.client = client
        self._task = asyncio.ensure_future(self._run())

    async def _run(self) -> None:
        names = {number: name for name, number in CHANNELS.items()}
        while message := await self.client.read():
            self.output[names[message[0]]] += message[1:]
            await self.reads.wait()
        self.client.close()
        self.over.set()

    async def send(self, data: bytes) -> None:
        for at in range(0, len(data), 32768):
            await self.client.write(bytes([CHANNELS["stdin"]]) + data[at : at + 32768])

    async def end_input(self) -> None:
        await self.client.write(bytes([255, CHANNELS["stdin"]]))

    async def resize(self, width: int, height: int) -> None:
        await self.client.write(bytes([CHANNELS["resize"]]) + json.dumps({"Width": width, "Height": height}).encode())

    def vanish(self) -> None:
        self._task.cancel()
        self.client.close()


async def over_spdy(url: str, expected: set[str], protocols: tuple[str, ...] = ("v4.channel.k8s.io",)) -> Conversation:
    """Connect and open the streams `wanted` beside the error stream."""
    client = await SpdyClient.connect(url, protocols)
    names = ["error", *sorted(expected)]
    return OverSpdy(client, {name: await client.open(name) for name in names})


async def over_websocket(
    url: str, expected: set[str], protocols: tuple[str, ...] = ("v5.channel.k8s.io",)
) -> Conversation:
    """Connect; all channels are open from the beginning."""
    return OverWebSocket(await WebSocketClient.connect(url, protocols))


TRANSPORTS = {"spdy": over_spdy, "websocket": over_websocket}
