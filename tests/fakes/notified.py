# SPDX-License-Identifier: Apache-2.0
"""systemd's notify socket, and the messages that it got."""

import socket
import time
from pathlib import Path
from types import TracebackType

from tests.fakes.patience import PATIENCE


class Notified:
    """`with Notified(path) as systemd:`; a path that begins with @ is an abstract address."""

    def __init__(self, path: Path | str) -> None:
        self.address = str(path)
        self.messages: list[list[str]] = []
        self.times_s: list[float] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)

    def __enter__(self) -> "Notified":
        self._socket.bind(f"\0{self.address[1:]}" if self.address.startswith("@") else self.address)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    def until(self, word: str, limit_s: float = 30) -> list[str]:
        """The next message that has an assignment which begins so; earlier ones are in `messages`."""
        deadline = time.monotonic() + limit_s * PATIENCE
        while True:
            self._socket.settimeout(max(deadline - time.monotonic(), 0.01))
            output = self._socket.recv(65536).decode().splitlines()
            self.messages.append(output)
            self.times_s.append(time.monotonic())
            if any(one.startswith(word) for one in output):
                return output
