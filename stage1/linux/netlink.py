# SPDX-License-Identifier: Apache-2.0
"""rtnetlink, thin: bytes of messages, a socket that sends them, and dumps. See netlink(7), rtnetlink(7).

Used by `net`: a process for each question would take more time than all that is asked for. It knows no device, route or
filter: what is in the messages is the caller's. Everything acts in the netns of the thread that makes the socket.
"""

from __future__ import annotations

import _socket
import errno
import struct
from collections.abc import Iterator, Sequence
from types import TracebackType

from stage1.linux.libc import Guard, failure

CREATE = 0x400 | 0x200
"""Flags of a message that makes something which is not there yet."""
CREATE_OR_KEEP = 0x400

Attributes = dict[int, bytes]

REQUEST, ACK = 1, 4
_DUMP = 0x300
_ERROR, _DONE = 2, 3
HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_KIND_MASK = 0x3FFF
_LIMIT_S = 10
_BUFFER_BYTES = 1 << 18


def attribute(kind: int, data: bytes) -> bytes:
    """One attribute, padded; nested ones are just data."""
    size = _ATTRIBUTE.size + len(data)
    return _ATTRIBUTE.pack(size, kind) + data + bytes(-size % 4)


def attributes(data: bytes) -> Attributes:
    """The encoded attributes by kind; of a repeated kind the last. A truncated one is skipped."""
    values, at = {}, 0
    while at + _ATTRIBUTE.size <= len(data):
        size, kind = _ATTRIBUTE.unpack_from(data, at)
        if size < _ATTRIBUTE.size or at + size > len(data):
            break
        values[kind & _KIND_MASK] = data[at + _ATTRIBUTE.size : at + size]
        at += size + -size % 4
    return values


class Netlink:
    """A socket in the netns of the calling thread. Close it, or use it in a `with`."""

    PROTOCOL = 0

    def __init__(self) -> None:
        with Guard("socket", "netlink"):
            self._socket = _socket.socket(_socket.AF_NETLINK, _socket.SOCK_RAW | _socket.SOCK_CLOEXEC, self.PROTOCOL)
        self._socket.settimeout(_LIMIT_S)
        self._socket.bind((0, 0))

    def __enter__(self) -> Netlink:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    def ask(self, messages: Sequence[tuple[int, int, bytes]], *, what: str) -> None:
        """Send the requests together, each with kind, flags, body and attributes. The kernel executes them in order.

        Raises KernelError about `what`, with the first error; the requests after it were executed.
        """
        if not messages:
            return
        packets = [
            HEADER.pack(HEADER.size + len(body), kind, flags | REQUEST | ACK, number, 0) + body
            for number, (kind, flags, body) in enumerate(messages)
        ]
        with Guard("netlink", what):
            self._socket.send(b"".join(packets))
        failed, missing = 0, len(messages)
        while missing:
            for kind, body in self._receive(what):
                missing -= 1
                failed = failed or (-struct.unpack_from("=i", body)[0] if kind == _ERROR else errno.EPROTO)
        if failed:
            raise failure("netlink", failed, what)

    def dump(self, kind: int, body: bytes, *, what: str) -> Iterator[bytes]:
        """The bodies of all objects of this kind that the kernel has. Raises KernelError about `what`."""
        with Guard("netlink", what):
            self._socket.send(HEADER.pack(HEADER.size + len(body), kind, REQUEST | _DUMP, 0, 0) + body)
        while True:
            for seen, part in self._receive(what):
                if seen == _DONE:
                    return
                if seen == _ERROR:
                    raise failure("netlink", -struct.unpack_from("=i", part)[0], what)
                yield part

    def get(self, kind: int, body: bytes, *, what: str) -> bytes:
        """The body of the one object that this asks for. Raises KernelError about `what`."""
        with Guard("netlink", what):
            self._socket.send(HEADER.pack(HEADER.size + len(body), kind, REQUEST, 0, 0) + body)
        ((seen, answer),) = self._receive(what)
        if seen == _ERROR:
            raise failure("netlink", -struct.unpack_from("=i", answer)[0], what)
        return answer

    def _receive(self, what: str) -> Iterator[tuple[int, bytes]]:
        with Guard("netlink", what):
            data = self._socket.recv(_BUFFER_BYTES)
        at = 0
        while at + HEADER.size <= len(data):
            size, kind, *_ = HEADER.unpack_from(data, at)
            yield kind, data[at + HEADER.size : at + size]
            at += max(HEADER.size, size + -size % 4)
