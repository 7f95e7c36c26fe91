# SPDX-License-Identifier: Apache-2.0
"""A TCP port that any client may connect to: what the streaming server and the one for metrics have in common.

A connection is an `UnadmittedConnection` until the head of its request is there; from then on it has a task of its own.
What is spoken on it is not known here.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from cri import owner
from cri.streaming.admission import UnadmittedConnection, Waiting

ACCEPTED_AT_ONCE = 8
"""How many connections are accepted before the event loop does other work."""
QUEUE = 4096
"""Connections that the kernel keeps for us meanwhile; it takes at most net.core.somaxconn."""
STOP_S = 5.0

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Service(NamedTuple):
    """The purpose of a port: `table` of the configuration has its address, `serve` handles one client, and closes
    nothing. An internal error is logged as the event `fault`.
    """

    table: str
    serve: Callable[[UnadmittedConnection, Streams], Awaitable[None]]
    log: logging.Logger
    fault: str


class Listener:
    """One port. `start` binds, `stop` ends all connections."""

    def __init__(self, service: Service, waiting: Waiting) -> None:
        self._service, self._waiting = service, waiting
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def start(self, address: str, port: int) -> int:
        """Listen. The port, of which 0 means any that is free. Raises AlreadyExists for one that is taken, BadRequest
        for an address that is not this host's.
        """
        listener = owner.listener(address, port, table=self._service.table)
        try:
            self._server = await asyncio.get_running_loop().create_server(
                lambda: UnadmittedConnection(self._waiting, self._received), sock=listener, backlog=ACCEPTED_AT_ONCE
            )
        except BaseException:
            listener.close()
            raise
        listener.listen(QUEUE)  # asyncio accepts as many at once as it lets the kernel keep
        return int(listener.getsockname()[1])

    async def stop(self) -> None:
        """Accept no more connections, and end those that there are. Idempotent."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=STOP_S)
        self._waiting.close()

    def _received(self, client: UnadmittedConnection, data: bytes) -> None:
        """The head of a request is complete."""
        task = asyncio.get_running_loop().create_task(self._serve(client, data))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, client: UnadmittedConnection, data: bytes) -> None:
        reader, writer = client.streams(data)
        try:
            await self._service.serve(client, (reader, writer))
            writer.close()
            await (
                writer.wait_closed()
            )  # a client that is refused and does not read the answer is cut off after its time limit
        except (asyncio.CancelledError, ConnectionError):
            pass  # we end, or the client does
        except Exception as error:
            self._service.log.error(self._service.fault, exc_info=error)
        finally:
            client.admit()
            writer.transport.abort()


def host_port(host: str, port: int) -> str:
    """Host and port as they stand in a URL."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
