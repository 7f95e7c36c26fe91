# SPDX-License-Identifier: Apache-2.0
"""Exec and attach over a WebSocket: a Session of channels. docs/dev/cri.md has the format."""

from cri.streaming import channels
from cri.streaming.channels import ChannelFault, Channels
from cri.streaming.input_queue import InputQueue
from cri.streaming.wire import WebSocket

FIRST_WITH_CLOSE = 5


class ChannelSession:
    """See `session.Session`."""

    def __init__(self, websocket: WebSocket, version: int) -> None:
        self.version = version
        self.stdin, self.resize = InputQueue(), InputQueue()
        self._websocket = websocket
        self._inputs = {channels.STDIN: self.stdin, channels.RESIZE: self.resize}

    async def run(self) -> None:
        """Take what the client sends until it is gone."""
        codec = Channels(has_close=self.version >= FIRST_WITH_CLOSE)
        try:
            while (part := await self._websocket.receive()) is not None:
                for piece in codec.receive(part[0], message_ends=part[1]):
                    await self._take(piece)
        except (ChannelFault, ConnectionError):
            pass
        finally:
            for queue in self._inputs.values():
                queue.finish()

    async def _take(self, piece: channels.Piece) -> None:
        queue = self._inputs.get(piece.channel)
        if queue is None:
            return  # the client sends nothing on the others
        queue.put(piece.data)
        if piece.end:
            queue.finish()
        await queue.wait_for_space(self._websocket.is_alive)

    async def ready(self) -> None:
        """Channels need no opening."""

    async def write(self, name: str, data: bytes) -> None:
        """Send output. Raises ConnectionError."""
        for message in channels.messages(channels.NAMES[name], data):
            await self._websocket.send(message)

    async def finish(self, status: bytes) -> None:
        """The status, then the close frame. Raises ConnectionError."""
        await self.write("error", status)
        await self._websocket.close()
        await self._websocket.flush()

    def abort(self) -> None:
        """End at once."""
        self._websocket.abort()
