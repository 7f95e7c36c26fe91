# SPDX-License-Identifier: Apache-2.0
"""The streaming server: one TCP port, and the tokens of those who may use it.

Started and stopped by `cri.server` with the gRPC server; the RPCs reach `offer` through the node. What happens on a
connection is in `connection`, which is loaded with its libraries when the first client comes.
"""

import asyncio
import logging
import resource
import time
from functools import partial
from typing import Any

from cri import owner
from cri.config_tables import Streaming
from cri.node import Node
from cri.streaming.admission import UnadmittedConnection, Waiting
from cri.streaming.tokens import Offer, Tokens
from stage1.errors import NoSpace

log = logging.getLogger("clearpod.streaming")

MOST_STREAMS, MOST_WAITING, MOST_EACH = 1024, 1024, 64
"""Connections at a time: with a token, without, and without from one other host."""
STREAMS_PART, WAITING_PART = 4, 8
"""One part in so many of the descriptors that this process may have."""
ACCEPTED_AT_ONCE = 8
"""Connections that are accepted before anything else in the daemon gets its turn."""
QUEUE = 4096
"""Connections that the kernel keeps for us meanwhile; it takes at most net.core.somaxconn."""
ANY = {"0.0.0.0": "127.0.0.1", "::": "::1"}
"""An address that means all is no address to connect to."""


class StreamingServer:
    """`start` binds, `stop` ends all connections and lets each client know."""

    def __init__(self, node: Node, config: Streaming) -> None:
        self._node, self._config = node, config
        self._tokens = Tokens()
        self._tasks: set[asyncio.Task[None]] = set()
        self._streams: set[UnadmittedConnection] = set()
        descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self._most_streams = min(MOST_STREAMS, descriptors // STREAMS_PART)
        self._waiting = Waiting(min(MOST_WAITING, descriptors // WAITING_PART), MOST_EACH)
        self._server: asyncio.Server | None = None
        self.address = ""

    async def start(self) -> None:
        """Listen. Raises AlreadyExists for a port that is taken, BadRequest for an address that is not this host's."""
        config = self._config
        port = await self._listen(config.address, config.port)
        host = ANY.get(config.address, config.address)
        self.address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        self._node.streaming = self

    async def _listen(self, address: str, port: int) -> int:
        """The port. asyncio accepts as many connections at once as it lets the kernel keep, so that is raised after."""
        listener = owner.listener(address, port, table="streaming")
        try:
            self._server = await asyncio.get_running_loop().create_server(
                lambda: UnadmittedConnection(self._waiting, self._received), sock=listener, backlog=ACCEPTED_AT_ONCE
            )
        except BaseException:
            listener.close()
            raise
        listener.listen(QUEUE)
        return int(listener.getsockname()[1])

    def offer(self, kind: str, request: Any) -> str:
        """The URL under which the client of a checked `request` finds what it asked for. Raises NoSpace."""
        token = self._tokens.add(Offer(kind, request), time.monotonic())
        return f"http://{self.address}/{kind}/{token}"

    async def stop(self) -> None:
        """Accept no more connections, and close those that there are. Idempotent."""
        self._node.streaming = None
        if self._server is not None:
            self._server.close()
            self._server = None
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=5)
        self._waiting.close()

    def _received(self, client: UnadmittedConnection, data: bytes) -> None:
        """The head of a request is complete."""
        task = asyncio.get_running_loop().create_task(self._serve(client, data))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, client: UnadmittedConnection, data: bytes) -> None:
        from cri.streaming import connection

        reader, writer = client.streams(data)
        try:
            await connection.serve(self._node, (reader, writer), take=partial(self._take, client))
            writer.close()
            await writer.wait_closed()  # without a valid token it is cut when its time is over
        except (asyncio.CancelledError, ConnectionError):
            pass  # we end, or the client does
        except Exception as error:
            log.error("stream.fault", exc_info=error)
        finally:
            self._streams.discard(client)
            client.admit()
            writer.transport.abort()

    def _take(self, client: UnadmittedConnection, token: str) -> Offer | None:
        """What the token stands for; from then on the connection counts as a stream. Raises NoSpace."""
        offer = self._tokens.take(token, time.monotonic())
        if offer is not None:
            client.admit()
            if len(self._streams) >= self._most_streams:
                raise NoSpace(f"{len(self._streams)} streams are open already; end some, and ask for a new URL")
            self._streams.add(client)
        return offer
