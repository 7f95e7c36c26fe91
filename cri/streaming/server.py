# SPDX-License-Identifier: Apache-2.0
"""The streaming server: one TCP port, and the tokens of those who may use it, which work once and for a minute.

Started and stopped by `cri.server` with the gRPC server; the RPCs reach `offer` through the node. What happens on a
connection is in `connection`, which is loaded with its libraries when the first client comes.
"""

import asyncio
import hashlib
import logging
import resource
import secrets
import time
from functools import partial
from typing import Any, NamedTuple

from cri.config_tables import Streaming
from cri.node import Node
from cri.streaming.listener import Listener, Service, Streams, UnadmittedConnection, Waiting, host_port
from stage1.errors import NoSpace

log = logging.getLogger("clearpod.streaming")

MOST_STREAMS, MOST_WAITING, MOST_EACH = 1024, 1024, 64
"""Connections at a time: with a token, without, and without from one other host."""
STREAMS_PART, WAITING_PART = 4, 8
"""One part in so many of the descriptors that this process may have."""
ANY = {"0.0.0.0": "127.0.0.1", "::": "::1"}
"""An address that means all is no address to connect to."""


LIFE_S = 60.0
MOST = 1000
"""Tokens that may wait at a time."""
TOKEN_BYTES = 16


class Offer(NamedTuple):
    """What a token authorises: exec, attach or portforward, and the RPC's request."""

    kind: str
    request: Any


class Tokens:
    """The offers. `now_s` is any clock that only goes forward."""

    def __init__(self) -> None:
        self._offers: dict[bytes, tuple[float, Offer]] = {}  # by the token's digest, oldest first

    def add(self, offer: Offer, now_s: float) -> str:
        """Return a new token. Raises NoSpace."""
        self._expire(now_s)
        if len(self._offers) >= MOST:
            raise NoSpace(f"{MOST} streaming requests wait for their clients already; try again in a minute")
        token = secrets.token_urlsafe(TOKEN_BYTES)
        self._offers[_digest(token)] = now_s + LIFE_S, offer
        return token

    def take(self, token: str, now_s: float) -> Offer | None:
        """The offer, once; None for a token that never was, was used, or is too old."""
        self._expire(now_s)
        entry = self._offers.pop(_digest(token), None)
        return entry[1] if entry else None

    def _expire(self, now_s: float) -> None:
        while self._offers and (oldest := next(iter(self._offers))) and self._offers[oldest][0] <= now_s:
            del self._offers[oldest]


def _digest(token: str) -> bytes:
    """The digest that is compared, so that the time of the comparison reveals nothing about the token."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()


class StreamingServer:
    """`start` binds, `stop` ends all connections and lets each client know."""

    def __init__(self, node: Node, config: Streaming) -> None:
        self._node, self._config = node, config
        self._tokens = Tokens()
        self._streams: set[UnadmittedConnection] = set()
        descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self._most_streams = min(MOST_STREAMS, descriptors // STREAMS_PART)
        waiting = Waiting(min(MOST_WAITING, descriptors // WAITING_PART), MOST_EACH)
        self._listener = Listener(Service("streaming", self._serve, log, "stream.fault"), waiting)
        self.address = ""

    async def start(self) -> None:
        """Begin to listen. Raises AlreadyExists for a port that is taken, BadRequest for an address that is not this
        host's.
        """
        port = await self._listener.start(self._config.address, self._config.port)
        self.address = host_port(ANY.get(self._config.address, self._config.address), port)
        self._node.streaming = self

    def offer(self, kind: str, request: Any) -> str:
        """The URL under which the client of a checked `request` finds what it asked for. Raises NoSpace."""
        token = self._tokens.add(Offer(kind, request), time.monotonic())
        return f"http://{self.address}/{kind}/{token}"

    async def stop(self) -> None:
        """Accept no more connections, and close those that there are. Idempotent."""
        self._node.streaming = None
        await self._listener.stop()

    async def _serve(self, client: UnadmittedConnection, streams: Streams) -> None:
        from cri.streaming import connection

        task = asyncio.current_task()
        assert task is not None
        task.add_done_callback(lambda _: self._streams.discard(client))  # it counts until the client has it all
        await connection.serve(self._node, streams, take=partial(self._take, client))

    def _take(self, client: UnadmittedConnection, token: str) -> Offer | None:
        """Redeem a token: return what it stands for; from then on the connection counts as a stream. Raises NoSpace."""
        offer = self._tokens.take(token, time.monotonic())
        if offer is not None:
            client.admit()
            if len(self._streams) >= self._most_streams:
                raise NoSpace(f"{len(self._streams)} streams are open already; end some, and ask for a new URL")
            self._streams.add(client)
        return offer
