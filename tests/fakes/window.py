# SPDX-License-Identifier: Apache-2.0
"""A VMM's DAX window without a VMM: the shim's socket, and what requests have put into it.

Held to the real shim by tests/contract/test_window_socket.py. `at` takes what the guest would see.
"""

import os
import re
import socket
import stat
import threading
from collections.abc import Callable

PAGE = 4096
REQUEST = re.compile(r"(map|unmap) (\d+) (\d+)")


def nothing(_: str) -> None:
    """The usual `before`."""


class FakeWindow:
    """Serves the unix socket `path`. `before` is called with each request, and may raise ConnectionError to hang up."""

    def __init__(self, path: str, size: int, before: Callable[[str], None] = nothing) -> None:
        self.size, self.before = size, before
        self.pieces: dict[int, tuple[int, bytes]] = {}
        """Offset -> size and content."""
        self.requests: list[str] = []
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._listener.bind(path)
        self._listener.listen()
        self._thread = threading.Thread(target=self._serve, name="fake window", daemon=True)
        self._thread.start()

    def __enter__(self) -> "FakeWindow":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """The VMM is gone."""
        try:
            self._listener.shutdown(socket.SHUT_RDWR)
        except OSError:
            return  # closed already
        self._thread.join()
        self._listener.close()

    def at(self, offset: int, size: int) -> bytes:
        """What a guest reads there."""
        content = bytearray(self.size)
        for start, (_, data) in self.pieces.items():
            content[start : start + len(data)] = data
        return bytes(content[offset : offset + size])

    def _serve(self) -> None:
        while True:
            try:
                peer, _ = self._listener.accept()
            except OSError:
                return
            with peer:
                self._converse(peer)

    def _converse(self, peer: socket.socket) -> None:
        while True:
            try:
                data, fds, _, _ = socket.recv_fds(peer, 127, 2)
                if not data:
                    return
                self.before(data.decode())
                self.requests.append(data.decode())
                peer.send(self._answer(data.decode(errors="replace"), fds).encode())
            except ConnectionError:
                return

    def _answer(self, text: str, fds: list[int]) -> str:
        try:
            match = REQUEST.fullmatch(text)
            if not match or len(fds) > 1:
                return "not a request"
            if (match[1] == "map") != (len(fds) == 1):
                return "no descriptor of an image came along" if match[1] == "map" else "a descriptor nobody asked for"
            offset, size = int(match[2]), int(match[3])
            return self._refuse_range(offset, size) or (
                self._map(offset, size, fds[0]) if fds else self._unmap(offset, size)
            )
        finally:
            for fd in fds:
                os.close(fd)

    def _refuse_range(self, offset: int, size: int) -> str:
        if offset % PAGE or size % PAGE or not size:
            return f"{size} bytes at {offset} are not whole pages"
        return f"{size} bytes at {offset} are outside of the {self.size} that there are" * (offset + size > self.size)

    def _map(self, offset: int, size: int, fd: int) -> str:
        seen = os.fstat(fd)
        if not stat.S_ISREG(seen.st_mode):
            return "the image is not a regular file"
        if seen.st_size != size:
            return f"the image has {seen.st_size} bytes where {size} were promised"
        if any(start < offset + size and offset < start + length for start, (length, _) in self.pieces.items()):
            return "another image is there already"
        self.pieces[offset] = (size, os.pread(fd, size, 0))
        return "ok"

    def _unmap(self, offset: int, size: int) -> str:
        end = offset + size
        inside = [at for at, (length, _) in self.pieces.items() if at >= offset and at + length <= end]
        touched = [at for at, (length, _) in self.pieces.items() if at < end and offset < at + length]
        if touched != inside:
            return "an image lies only in part there"
        for at in inside:
            del self.pieces[at]
        return "ok"
