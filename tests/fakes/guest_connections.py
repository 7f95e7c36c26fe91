# SPDX-License-Identifier: Apache-2.0
"""Connections of the fake guest to "ports of the pod": ports of this host's loopback, since a fake pod has no network.

Used by tests/fakes/guest_containers.py. To the loop of the guest a connection is a job without a process.
"""

import os
import socket

from stage1.guest.messages import Connect, Stdio
from tests.fakes.guest_jobs import Job


class Connection(Job):
    """A job whose input and output are one socket."""

    def __init__(self, op: Connect) -> None:
        super().__init__("", op.connection, Stdio(stdin=op.input, stdout=op.output))
        self._socket = _connect(op.port)
        self.stdin = os.dup(self._socket.fileno())
        self.outputs[os.dup(self._socket.fileno())] = op.output

    @property
    def done(self) -> bool:
        """Both directions have ended, or it was cut."""
        return not self.outputs and self.stdin < 0

    def close_input(self) -> None:
        """Pass the end of the input on."""
        try:
            self._socket.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # the other end is gone
        os.close(self.stdin)
        self.stdin = -1

    def signal(self, number: int, everything: bool = False) -> None:
        """Whatever would kill a process cuts the connection."""
        self.close()

    def close(self) -> None:
        """Close everything."""
        super().close()
        self._socket.close()


def _connect(port: int) -> socket.socket:
    """127.0.0.1, else ::1, as the agent does. Raises the first's OSError."""
    try:
        made = socket.create_connection(("127.0.0.1", port), 5)
    except OSError as error:
        try:
            made = socket.create_connection(("::1", port), 5)
        except OSError:
            raise error from None
    made.setblocking(False)
    return made
