# SPDX-License-Identifier: Apache-2.0
"""WebSocket: a Session of channels for exec and attach, and a Wire for port-forward. docs/dev/cri.md has the format."""

from collections import deque
from collections.abc import Iterator

from wsproto.connection import Connection, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Event, Message, Ping, Pong, TextMessage
from wsproto.utilities import LocalProtocolError, RemoteProtocolError

from cri.loop_budget import LoopBudget
from cri.streaming import formats
from cri.streaming.formats import ChannelFault, Channels
from cri.streaming.wire import InputQueue, Wire, next_slice


class WebSocket:
    """Messages on a Wire, after the handshake; they are parsed within `budget`."""

    def __init__(self, wire: Wire, budget: LoopBudget) -> None:
        self._wire, self._budget = wire, budget
        self._codec = Connection(ConnectionType.SERVER)
        self._coming: Iterator[Event] = iter(())
        self._events: deque[Event] = deque()

    @property
    def last_s(self) -> float:
        """The time of the last traffic."""
        return self._wire.last_s

    async def receive(self) -> tuple[bytes, bool] | None:
        """A part of a message and whether the message ends there; None when the client is gone."""
        while True:
            while self._events:
                part = await self._take(self._events.popleft())
                if part or part is None:
                    return part
            try:
                if some := await next_slice(self._coming, self._budget):
                    self._events.extend(some)
                    continue
                data = await self._wire.read()
                if not data:
                    return None
                self._codec.receive_data(data)
                self._coming = self._codec.events()
            except RemoteProtocolError:
                return None

    async def _take(self, event: Event) -> tuple[bytes, bool] | tuple[()] | None:
        if isinstance(event, BytesMessage):
            return bytes(event.data), event.message_finished
        if isinstance(event, TextMessage):
            return event.data.encode(), event.message_finished
        if isinstance(event, Ping):
            await self._send(event.response())
        elif isinstance(event, CloseConnection):
            await self.close()
            return None
        return ()

    async def send(self, data: bytes) -> None:
        """One binary message. Raises ConnectionError."""
        await self._send(Message(data=data))

    async def is_alive(self) -> bool:
        """Like that of a Wire: an unsolicited pong is allowed, and shows the client that we are alive."""
        if not await self._wire.is_alive():
            return False
        await self._send(Pong())
        return True

    async def close(self) -> None:
        """Send the close frame, once."""
        try:
            await self._send(CloseConnection(code=1000))
        except ConnectionError:
            pass  # it was sent already, or the client is gone

    async def flush(self) -> None:
        """Wait until everything is on its way. Raises ConnectionError."""
        await self._wire.flush()

    def abort(self) -> None:
        """End at once."""
        self._wire.abort()

    async def _send(self, event: Event) -> None:
        try:
            data = self._codec.send(event)
        except LocalProtocolError as error:
            raise ConnectionResetError(f"the WebSocket is closed: {error}") from None
        await self._wire.write(data)


class Tunnel:
    """A Wire in the messages of a WebSocket, whose borders mean nothing."""

    def __init__(self, websocket: WebSocket) -> None:
        self._websocket = websocket

    @property
    def last_s(self) -> float:
        """The time of the last traffic."""
        return self._websocket.last_s

    async def read(self) -> bytes:
        """Read data; b"" when the client has disconnected."""
        while (part := await self._websocket.receive()) is not None:
            if part[0]:
                return part[0]
        return b""

    async def write(self, data: bytes) -> None:
        """One message. Raises ConnectionError."""
        await self._websocket.send(data)

    async def is_alive(self) -> bool:
        """Like the WebSocket's."""
        return await self._websocket.is_alive()

    async def flush(self) -> None:
        """Wait until everything is on its way. Raises ConnectionError."""
        await self._websocket.flush()

    def abort(self) -> None:
        """End at once."""
        self._websocket.abort()


# -- Exec and attach ---------------------------------------------------------------------------------------------------


FIRST_WITH_CLOSE = 5


class ChannelSession:
    """See `session.Session`."""

    def __init__(self, websocket: WebSocket, version: int) -> None:
        self.version = version
        self.stdin, self.resize = InputQueue(), InputQueue()
        self._websocket = websocket
        self._inputs = {formats.STDIN: self.stdin, formats.RESIZE: self.resize}

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

    async def _take(self, piece: formats.Piece) -> None:
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
        for message in formats.messages(formats.NAMES[name], data):
            await self._websocket.send(message)

    async def finish(self, status: bytes) -> None:
        """The status, then the close frame. Raises ConnectionError."""
        await self.write("error", status)
        await self._websocket.close()
        await self._websocket.flush()

    def abort(self) -> None:
        """End at once."""
        self._websocket.abort()
