# SPDX-License-Identifier: Apache-2.0
"""Activation of a suspended pod by the first connection to one of its host ports. Owned by a live pod, opened by
`suspension`.

Anybody can send these frames, and any number of them, so the number that is read in a period is limited.
"""

import asyncio
import logging
import socket
from collections.abc import Callable

from cri.threads import obtained
from stage1.errors import KernelError
from stage1.net import activation
from stage1.net.activation import Endpoints

log = logging.getLogger("clearpod.pod")

FRAMES, REST_S = 64, 0.1
"""How many frames are read at a time, and how long reading pauses after a time that left some."""


class Activation:
    """A packet socket at the pod's device while it is suspended. `title` is the pod's display name."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._socket: socket.socket | None = None
        self._endpoints = Endpoints(b"", frozenset(), frozenset())
        self._activate: Callable[[], None] = lambda: None
        self._rest: asyncio.TimerHandle | None = None

    async def open(self, pod_id: str, device: str, *, endpoints: Endpoints, activate: Callable[[], None]) -> None:
        """Listen at the pod's `device`; call `activate` at the first connection. Undo: `close`. Logs errors."""
        self.close()
        try:
            made = await obtained(activation.listen, socket.socket.close, pod_id, device)
        except KernelError as error:
            log.warning("pod.activation", extra={"pod": pod_id, "title": self._title, "error": str(error)})
            return
        self._socket, self._endpoints, self._activate = made, endpoints, activate
        self._listen()

    def close(self) -> None:
        """Stop listening. Idempotent."""
        if self._rest is not None:
            self._rest.cancel()
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket)
            self._socket.close()
        self._socket = self._rest = None

    def _listen(self) -> None:
        if self._socket is not None:
            asyncio.get_running_loop().add_reader(self._socket, self._receive)

    def _receive(self) -> None:
        assert self._socket is not None
        for _ in range(FRAMES):
            try:
                frame = self._socket.recv(activation.MOST_BYTES)
            except BlockingIOError:
                return
            except OSError:  # the device is gone, and its pod soon
                self.close()
                return
            if self._endpoints.is_connection(frame):
                self.close()
                self._activate()
                return
            self._send(self._endpoints.answer(frame))
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._socket)
        self._rest = loop.call_later(REST_S, self._listen)

    def _send(self, frame: bytes) -> None:
        if frame and self._socket is not None:
            try:
                self._socket.send(frame)
            except OSError:  # it is asked again
                pass
