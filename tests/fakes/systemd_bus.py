# SPDX-License-Identifier: Apache-2.0
"""A systemd that answers StartTransientUnit over a unix socket, as a bus would or as its own socket does, and can be
made to fail. It makes no unit; `on_start` may make the cgroup.
"""

import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from stage1.linux.dbuswire import ERROR, F_ERROR, F_MEMBER, F_PATH, F_REPLY_TO, REPLY, SIGNAL, message
from tests.fakes.patience import PATIENCE

JOB = "/org/freedesktop/systemd1/job/7"
Started = Callable[[bytes], None]


class SystemdBus:
    """`with SystemdBus(path) as bus:`. `answer`: "done", another result of the job, the name of an error, "silent",
    "closes", "garbage" or "stranger" (it does not know us).
    """

    def __init__(self, path: Path, answer: str = "done", *, on_start: Started | None = None) -> None:
        self.path, self.answer, self.calls = path, answer, list[str]()
        self.bodies: list[bytes] = []
        self._on_start = on_start
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(path))
        self._listener.listen(64)
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> "SystemdBus":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(10 * PATIENCE)

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            with client, client.makefile("rb") as stream:
                try:
                    self._talk(client, stream)
                except (ConnectionError, BrokenPipeError):
                    continue

    def _talk(self, client: socket.socket, stream: Any) -> None:
        assert stream.readline().startswith(b"\0AUTH EXTERNAL ")
        client.sendall(b"REJECTED\r\n" if self.answer == "stranger" else b"OK 0123\r\n")
        if stream.readline() != b"BEGIN\r\n":
            return
        while head := stream.read(16):
            size, fields_size = (int.from_bytes(head[at : at + 4], "little") for at in (4, 12))
            rest = stream.read(-(-fields_size // 8) * 8 + size)
            self._answer(client, int.from_bytes(head[8:12], "little"), rest, rest[len(rest) - size :])

    def _answer(self, client: socket.socket, serial: int, fields: bytes, body: bytes) -> None:
        names = (b"Hello", b"AddMatch", b"Subscribe", b"StartTransientUnit", b"SetUnitProperties")
        (name,) = [name for name in names if b"\0" + name + b"\0" in fields]
        self.calls.append(name.decode())
        if name == b"SetUnitProperties":
            self.bodies.append(body)
        if name != b"StartTransientUnit":
            output = ("s", (":1.1",)) if name == b"Hello" else ("", ())
            client.sendall(message(REPLY, 1, fields={F_REPLY_TO: ("u", serial)}, body=output))
            return
        self.bodies.append(body)
        # What systemd says to everybody, and nobody has asked for.
        other = {F_PATH: ("o", "/u"), F_MEMBER: ("s", "PropertiesChanged")}
        client.sendall(message(SIGNAL, 2, fields=other, body=("sa(sv)as", ("x", [("y", ("b", True))], ["z"]))))
        if self.answer in ("silent", "closes", "garbage"):
            client.sendall(b"\xff" * 64 if self.answer == "garbage" else b"")
            if self.answer == "closes":
                client.shutdown(socket.SHUT_RDWR)
            return
        if "." in self.answer:
            refused = {F_REPLY_TO: ("u", serial), F_ERROR: ("s", self.answer)}
            client.sendall(message(ERROR, 3, fields=refused, body=("s", (f"no: {self.answer}",))))
            return
        if self._on_start:
            self._on_start(body)
        client.sendall(message(REPLY, 3, fields={F_REPLY_TO: ("u", serial)}, body=("o", (JOB,))))
        gone = {F_PATH: ("o", "/org/freedesktop/systemd1"), F_MEMBER: ("s", "JobRemoved")}
        client.sendall(message(SIGNAL, 4, fields=gone, body=("uoss", (6, f"{JOB}0", "u", "failed"))))
        client.sendall(message(SIGNAL, 5, fields=gone, body=("uoss", (7, JOB, "u", self.answer))))
