# SPDX-License-Identifier: Apache-2.0
"""Notices who connects to a host port of a pod that is suspended, so that it is resumed. Owned by a live pod, opened by
`suspension`.

What is read is anybody's, and as much as anybody likes: so many frames are looked at within a while, and no more.
"""

import asyncio
import logging
import socket
from collections.abc import Callable

from stage1.errors import KernelError
from stage1.net import knock
from stage1.net.knock import Door

log = logging.getLogger("clearpod.pod")

FRAMES, REST_S = 64, 0.1
"""So many are looked at in a turn, and so long nothing is after a turn that left some."""


class Doorbell:
    """`title` is the pod's display name."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._socket: socket.socket | None = None
        self._door = Door(b"", frozenset(), frozenset())
        self._ring: Callable[[], None] = lambda: None
        self._rest: asyncio.TimerHandle | None = None

    async def open(self, pod_id: str, device: str, *, door: Door, ring: Callable[[], None]) -> None:
        """Listen at the pod's `device`, and `ring` once when somebody knocks. Undo: `close`. An error is logged."""
        self.close()
        try:
            made = await asyncio.to_thread(knock.listen, pod_id, device)
        except KernelError as error:
            log.warning("pod.doorbell", extra={"pod": pod_id, "title": self._title, "error": str(error)})
            return
        self._socket, self._door, self._ring = made, door, ring
        self._listen()

    def close(self) -> None:
        """Listen no more. Idempotent."""
        if self._rest is not None:
            self._rest.cancel()
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket)
            self._socket.close()
        self._socket = self._rest = None

    def _listen(self) -> None:
        if self._socket is not None:
            asyncio.get_running_loop().add_reader(self._socket, self._look)

    def _look(self) -> None:
        assert self._socket is not None
        for _ in range(FRAMES):
            try:
                frame = self._socket.recv(knock.MOST_BYTES)
            except BlockingIOError:
                return
            except OSError:  # the device is gone, and its pod soon
                self.close()
                return
            if self._door.is_knock(frame):
                self.close()
                self._ring()
                return
            self._send(self._door.answer(frame))
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._socket)
        self._rest = loop.call_later(REST_S, self._listen)

    def _send(self, frame: bytes) -> None:
        if frame and self._socket is not None:
            try:
                self._socket.send(frame)
            except OSError:  # it is asked again
                pass
