# SPDX-License-Identifier: Apache-2.0
"""QEMU's monitor of a phantom, as far as the daemon uses it to put images into a guest, to save it and to load it.

The phantom itself is saved, so that a copy has its containers and its key. It runs in the jail, in threads next to the
phantom's, which pauses on request.
"""

import json
import os
import pickle
import socket
import threading
from typing import Any

from tests.hostile.phantom import Phantom

GREETING = {"QMP": {"version": {}, "capabilities": []}}


class Monitor:
    """Serves `listener`. An attacker overrides `Phantom.command`, which is asked about each."""

    def __init__(self, listener: socket.socket, phantom: Phantom) -> None:
        self._listener, self._phantom = listener, phantom
        self._sets: dict[int, tuple[int, str]] = {}
        self._drive, self._status, self._number = "empty", "", 0

        self._thread = threading.Thread(target=self._accept, daemon=True)

    def start(self) -> "Monitor":
        """Begin to serve."""
        self._thread.start()
        return self

    def __enter__(self) -> "Monitor":
        return self.start()

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        for fd, _ in self._sets.values():
            os.close(fd)

    def _accept(self) -> None:
        while True:
            try:
                peer, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._talk, args=(peer,), daemon=True).start()

    def _talk(self, peer: socket.socket) -> None:
        with peer:
            self._converse(peer)

    def _converse(self, peer: socket.socket) -> None:
        pending, fds = b"", list[int]()
        try:
            self._say(peer, GREETING)
            while True:
                data, more, _, _ = socket.recv_fds(peer, 65536, 16)
                if not data:
                    return
                pending, fds = pending + data, fds + list(more)
                while b"\n" in pending:
                    line, _, pending = pending.partition(b"\n")
                    self._answer(peer, json.loads(line), fds)
        except OSError:
            return

    def _answer(self, peer: socket.socket, asked: dict[str, Any], fds: list[int]) -> None:
        name, arguments = asked["execute"], asked.get("arguments", {})

        def do() -> object:
            return getattr(self, f"_{name.replace('-', '_')}", self._nothing)(fds=fds, **_named(arguments))

        answer = self._phantom.command(name, do)
        if isinstance(answer, bytes):
            peer.sendall(answer)
        elif answer is not None:
            self._say(peer, {"return": answer})

    def _say(self, peer: socket.socket, what: object) -> None:
        peer.sendall(json.dumps(what).encode() + b"\n")

    # -- commands

    def _nothing(self, **_: object) -> object:
        return {}

    def _add_fd(self, *, fds: list[int], opaque: str = "", **_: object) -> object:
        self._number += 1
        self._sets[self._number] = fds.pop(0), opaque
        return {"fdset-id": self._number, "fd": self._number}

    def _remove_fd(self, *, fdset_id: int, **_: object) -> object:
        os.close(self._sets.pop(fdset_id)[0])
        return {}

    def _query_fdsets(self, **_: object) -> object:
        return [{"fdset-id": number, "fds": [{"opaque": word}]} for number, (_, word) in self._sets.items()]

    def _qom_get(self, **_: object) -> object:
        return self._drive

    def _qom_set(self, *, value: str, **_: object) -> object:
        self._drive = value
        return {}

    def _stop(self, **_: object) -> object:
        self._phantom.runs.clear()
        return {}

    def _cont(self, **_: object) -> object:
        self._phantom.runs.set()
        return {}

    def _migrate(self, *, uri: str, **_: object) -> object:
        os.write(self._fd(uri), pickle.dumps((self._phantom.link, self._phantom.containers)))
        self._status = "completed"
        return {}

    def _migrate_incoming(self, *, uri: str, **_: object) -> object:
        self._phantom.link, self._phantom.containers = pickle.loads(os.pread(self._fd(uri), 1 << 24, 0))
        self._phantom.ready = self._phantom.was_loaded = True
        self._status = "completed"
        return {}

    def _query_migrate(self, **_: object) -> object:
        return {"status": self._status} if self._status else {}

    def _fd(self, uri: str) -> int:
        return self._sets[int(uri.rpartition("/")[2])][0]


def _named(arguments: dict[str, Any]) -> dict[str, Any]:
    return {key.replace("-", "_"): value for key, value in arguments.items()}
