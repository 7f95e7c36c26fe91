# SPDX-License-Identifier: Apache-2.0
"""The port of the host that guests with a vsock connect to. Made once per node, by the table; used by `cri.agent`.

It hands connections over and reads nothing from them.
"""

import asyncio
import socket

from stage1.linux import vsock

READ_BYTES = 1 << 16
"""The size of a read from a guest; asyncio buffers up to four times as much."""

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class VsockPort:
    """Guests connect to this port of the host; `accept` waits for the agent with a given context id.

    Any process of a guest can connect, so an unexpected connection is closed at once: while the agent's own lasts there
    is no other. An agent that comes too early tries again within milliseconds.
    """

    def __init__(self, port: int) -> None:
        """`port` 0: the kernel chooses one, see `listen`. Nothing is opened yet."""
        self._port = port
        self._waiting: dict[int, asyncio.Future[Connection | None]] = {}
        self._listener: socket.socket | None = None
        self._server: asyncio.Server | None = None
        self._opening = asyncio.Lock()

    def listen(self) -> int:
        """Listen, if not done yet, and return the port. Raises KernelError."""
        if self._listener is None:
            self._listener = vsock.listen(self._port)
            self._port = self._listener.getsockname()[1]
        return self._port

    async def accept(self, cid: int) -> Connection | None:
        """The next connection of the guest `cid`; None when it was forgotten meanwhile."""
        arrival: asyncio.Future[Connection | None] = asyncio.get_running_loop().create_future()
        self._waiting[cid] = arrival
        try:
            async with self._opening:
                if self._server is None:
                    self.listen()
                    self._server = await asyncio.start_server(self._arrived, sock=self._listener, limit=2 * READ_BYTES)
            return await arrival
        finally:
            self._waiting.pop(cid, None)

    async def _arrived(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        arrival = self._waiting.get(writer.get_extra_info("peername")[0])
        if arrival is None or arrival.done():
            writer.close()
        else:
            arrival.set_result((reader, writer))

    def forget(self, cid: int) -> None:
        """The guest is gone: who waits for it gets None."""
        arrival = self._waiting.get(cid)
        if arrival is not None and not arrival.done():
            arrival.set_result(None)

    def close(self) -> None:
        """Stop listening."""
        if self._server is not None:
            self._server.close()
        elif self._listener is not None:
            self._listener.close()
