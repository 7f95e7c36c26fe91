# SPDX-License-Identifier: Apache-2.0
"""Connections to the guest's agent that wait until it is there, for `proxy.py`. One thread, blocking.

The protocol is not known here. The daemon makes its own, with asyncio.
"""

import _socket
import errno
import time
from collections.abc import Callable

from stage1.errors import KernelError
from stage1.linux import beneath

Factory = Callable[[float], _socket.socket | None]
"""Gets the moment (time.monotonic) until which it may wait; returns a socket, None when it waited in vain."""


RETRY_S = 0.002
"""Delay between attempts; a VMM needs tens of milliseconds to create its socket."""
_NOT_YET = (errno.ENOENT, errno.ECONNREFUSED, errno.EAGAIN)
_NO_GUEST_YET = (errno.ECONNRESET, errno.ECONNREFUSED, errno.ENODEV, errno.ETIMEDOUT, errno.EHOSTUNREACH)


def unix_factory(path: str) -> Factory:
    """Return a factory that connects to the unix socket `path`, which may appear a little later."""
    what = f"the agent's socket {path}"
    return _factory(_socket.AF_UNIX, lambda sock: _connect(sock, path), not_yet=_NOT_YET, what=what)


def _connect(sock: _socket.socket, path: str) -> None:
    with beneath.Socket(path) as address:
        sock.connect(address)


def vsock_factory(cid: int, port: int) -> Factory:
    """Return a factory that connects to the guest's `port`, where an autonomous pod's agent listens once it is up."""
    what = f"port {port} of guest {cid}"
    return _factory(_socket.AF_VSOCK, lambda sock: sock.connect((cid, port)), not_yet=_NO_GUEST_YET, what=what)


def _factory(family: int, join: Callable[[_socket.socket], None], *, not_yet: tuple[int, ...], what: str) -> Factory:
    def connect(until: float) -> _socket.socket | None:
        while True:
            sock = _socket.socket(family, _socket.SOCK_STREAM)
            try:
                join(sock)
                return sock
            except (OSError, KernelError) as error:
                sock.close()
                if error.errno not in not_yet:
                    raise KernelError("connect", error.errno or errno.ENAMETOOLONG, what) from None
            if time.monotonic() >= until:
                return None
            time.sleep(RETRY_S)

    return connect
