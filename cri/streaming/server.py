# SPDX-License-Identifier: Apache-2.0
"""The streaming server: one TCP port, and the tokens of those who may use it. Contract section 13.1.

Started and stopped by `cri.server` with the gRPC server; the RPCs reach `offer` through the node. What happens on a
connection is in `connection`, which is loaded with its libraries when the first client comes.
"""

import asyncio
import errno
import logging
import time
from typing import Any

from cri.config import Streaming
from cri.node import Node
from cri.streaming.tokens import Offer, Tokens
from stage1.errors import AlreadyExists, BadRequest

log = logging.getLogger("clearpod.streaming")

MOST_CONNECTIONS = 1024
"""At a time; one more is closed at once."""
ANY = {"0.0.0.0": "127.0.0.1", "::": "::1"}
"""An address that means all is no address to connect to."""


class StreamingServer:
    """`start` binds, `stop` ends all connections and lets each client know."""

    def __init__(self, node: Node, config: Streaming) -> None:
        self._node, self._config = node, config
        self._tokens = Tokens()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self.address = ""

    async def start(self) -> None:
        """Listen. Raises AlreadyExists for a port that is taken, BadRequest for an address that is not this host's."""
        wanted = self._config
        try:
            self._server = await asyncio.start_server(self._accept, wanted.address, wanted.port, limit=1 << 16)
        except OSError as error:
            where = f"streaming.address {wanted.address}, port {wanted.port}"
            if error.errno == errno.EADDRINUSE:
                raise AlreadyExists(f"{where}: the port is taken; choose another, or 0 for any") from None
            raise BadRequest(f"{where}: can't listen there: {error.strerror}") from None
        port = self._server.sockets[0].getsockname()[1]
        host = ANY.get(wanted.address, wanted.address)
        self.address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        self._node.streaming = self

    def offer(self, kind: str, request: Any) -> str:
        """The URL under which the client of a checked `request` finds what it asked for. Raises NoSpace."""
        token = self._tokens.add(Offer(kind, request), time.monotonic())
        return f"http://{self.address}/{kind}/{token}"

    async def stop(self) -> None:
        """Take no more connections, end those that there are; again is fine."""
        self._node.streaming = None
        if self._server is not None:
            self._server.close()
            self._server = None
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=5)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """asyncio runs this as a task of its own for each connection."""
        from cri.streaming import connection

        task = asyncio.current_task()
        assert task is not None
        if len(self._tasks) >= MOST_CONNECTIONS:
            return writer.close()
        self._tasks.add(task)
        try:
            await connection.serve(self._node, (reader, writer), take=self._take)
        except asyncio.CancelledError:
            pass  # we end; asyncio would complain
        except Exception as error:
            log.error("stream.fault", exc_info=error)
        finally:
            self._tasks.discard(task)
            writer.close()
        return None

    def _take(self, token: str) -> Offer | None:
        return self._tokens.take(token, time.monotonic())
