# SPDX-License-Identifier: Apache-2.0
"""A blocking client of an agent that has no other one: it sends a request, and waits for the reply. Called by
`stage1.snapshot.save`; the daemon's client is `cri.agent`, and rkt's programs have `client.py`, through a proxy.
"""

from __future__ import annotations

import os
import time

from stage1.errors import TimedOut, VmFailed
from stage1.guest.connect import unix_factory
from stage1.guest.frame import START
from stage1.guest.link import HostLink, Incoming, LinkFault, ReplySeen
from stage1.guest.messages import Op, Reply, check_reply

_READ_BYTES = 65536


class DirectClient:
    """One connection; a context manager. The next host that connects begins as the first one would: the link's key is
    START, with which every host begins, so the guest has kept no secret.
    """

    def __init__(self, path: str, *, limit_s: float) -> None:
        """Connect to the VMM's socket `path`. All that is asked must be answered within `limit_s`. Raises TimedOut."""
        self._until = time.monotonic() + limit_s
        connected = unix_factory(path)(self._until)
        if connected is None:
            raise TimedOut(f"the agent's socket {path} did not appear within {limit_s:g} s")
        self._socket = connected
        self._link = HostLink(START, int.from_bytes(os.urandom(7), "little") | 1)
        self._link.connect(time.time_ns())

    def __enter__(self) -> DirectClient:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def call(self, op: Op) -> Reply:
        """Ask, and wait for the answer. Raises what it means, TimedOut, VmFailed."""
        number = self._link.request(op)
        try:
            while True:
                for seen in self._exchange():
                    if isinstance(seen, ReplySeen) and seen.id == number:
                        return check_reply(seen.reply, op)
        except LinkFault as fault:
            raise VmFailed(f"the link to a guest was cut: {fault}") from None

    def _exchange(self) -> list[Incoming]:
        self._socket.settimeout(max(self._until - time.monotonic(), 0.001))
        try:
            self._socket.sendall(self._link.outgoing())
            data = self._socket.recv(_READ_BYTES)
        except TimeoutError:
            raise TimedOut("the agent of a guest did not answer in time") from None
        except OSError as error:
            raise VmFailed(f"the link to a guest can't be read: {error.strerror}") from None
        if not data:
            raise VmFailed("the link to a guest was closed: its VM has ended")
        return self._link.receive(data)
