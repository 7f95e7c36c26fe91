# SPDX-License-Identifier: Apache-2.0
"""Passes UDP datagrams between clients of one socket and one target, each client by a socket of its own.

Used by `loopback`. Datagrams that find no room are dropped, as UDP may; a client that is silent for a minute is
forgotten.
"""

import asyncio
import contextlib
import socket
from collections import OrderedDict
from typing import NamedTuple

IDLE_S = 60.0
MOST_CLIENTS = 1024
AT_A_TIME = 16
"""Datagrams that are passed on before others get their turn."""
_MOST_BYTES = 1 << 16

Sender = tuple[str, int, int, int]


class _Client(NamedTuple):
    socket: socket.socket
    seen_s: float


class Relay:
    """Relays the datagrams of `listener`, a bound, non-blocking socket that it owns from now on."""

    def __init__(self, listener: socket.socket, target: tuple[str, int], *, idle_s: float = IDLE_S) -> None:
        self._listener, self._target, self._idle_s = listener, target, idle_s
        self._family = socket.AF_INET6 if ":" in target[0] else socket.AF_INET
        self._clients: OrderedDict[Sender, _Client] = OrderedDict()
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(listener, self._arrived)
        self._expiry = self._loop.call_later(idle_s, self._expire)

    def close(self) -> None:
        """Close the sockets of all clients and the listener. Idempotent."""
        self._expiry.cancel()
        if self._listener.fileno() >= 0:
            self._loop.remove_reader(self._listener)
            self._listener.close()
        for who in list(self._clients):
            self._forget(who)

    def _arrived(self) -> None:
        for _ in range(AT_A_TIME):
            try:
                data, who = self._listener.recvfrom(_MOST_BYTES)
            except OSError:
                return
            with contextlib.suppress(OSError):
                self._client(who).send(data)

    def _client(self, who: Sender) -> socket.socket:
        known = self._clients.pop(who, None)
        there = known.socket if known else self._connect(who)
        self._clients[who] = _Client(there, self._loop.time())
        return there

    def _connect(self, who: Sender) -> socket.socket:
        if len(self._clients) >= MOST_CLIENTS:
            self._forget(next(iter(self._clients)))
        there = socket.socket(self._family, socket.SOCK_DGRAM)
        try:
            there.setblocking(False)
            there.connect(self._target)
        except OSError:
            there.close()
            raise
        self._loop.add_reader(there, self._answered, there, who)
        return there

    def _answered(self, there: socket.socket, who: Sender) -> None:
        for _ in range(AT_A_TIME):
            try:
                self._listener.sendto(there.recv(_MOST_BYTES), who)
            except OSError:
                return

    def _forget(self, who: Sender) -> None:
        there = self._clients.pop(who).socket
        self._loop.remove_reader(there)
        there.close()

    def _expire(self) -> None:
        """Drop clients that were silent for too long; the oldest are first."""
        before = self._loop.time() - self._idle_s
        for who, client in list(self._clients.items()):
            if client.seen_s > before:
                break
            self._forget(who)
        self._expiry = self._loop.call_later(self._idle_s, self._expire)
