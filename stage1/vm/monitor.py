# SPDX-License-Identifier: Apache-2.0
"""QEMU's monitor (QMP) on a socket that it has inherited: saves a guest as a template, and loads one into a new VM.

Called by `starter` and `stage1.snapshot`, blocking. Its other end is not shared, has no path, and is closed before a
loaded guest gets its pod. What is read has a limit in time and in bytes.
"""

import json
import socket
import sys
import time

from stage1.errors import VmFailed, both_ends
from stage1.vm.template import BEGIN, LOAD, STATE_SET, STATE_URI, spoken

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

LIMIT_S = 60.0
"""Time limits for a guest to be saved or loaded, which takes milliseconds; and for QEMU to start."""
_MOST_BYTES = 1 << 20
_MOST_NUMBER, _MOST_VALUES = 1 << 63, 1 << 17
"""The latter of one answer: each takes many times of its text in memory."""


class Refused(VmFailed):
    """QEMU has not done one command, and takes others."""


class Monitor:
    """A context manager, which closes the socket. All methods raise VmFailed when QEMU refuses, ends or is late."""

    def __init__(self, connected: int, *, limit_s: float = LIMIT_S, most_bytes: int = _MOST_BYTES) -> None:
        """Takes the descriptor `connected` over. The time runs from now on; QEMU may say so many bytes in all."""
        self._most_bytes = most_bytes
        self._socket = socket.socket(fileno=connected)
        self._until, self._bytes, self._buffer = time.monotonic() + limit_s, 0, bytearray()

    def __enter__(self) -> "Monitor":
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def load(self) -> None:
        """Load the state in STATE_FD; the guest runs then. All commands are sent at once: QEMU reads them when it is
        ready.
        """
        self._ask(LOAD)
        self._answered(len(LOAD), or_migrated=True)

    def save(self, state: int) -> None:
        """Write the devices' state to the file `state` of ours; the guest's memory is in a file already, and it does
        not go on. It is not stopped before: a copy of one that was would wait, too.
        """
        self._ask(BEGIN)
        self._ask([("add-fd", {"fdset-id": STATE_SET})], [state])
        self._ask([("migrate", {"uri": STATE_URI})])
        self._answered(len(BEGIN) + 2, or_migrated=True)

    def run(self, name: str, arguments: "dict[str, Any] | None" = None, *, descriptor: int = -1) -> "Any":
        """The result of this command, which may take a descriptor of ours. Raises Refused too."""
        sys.audit("clearpod.monitor", name)  # as in `linux.libc.call`
        self._ask([(name, arguments or {})], [descriptor] if descriptor >= 0 else [])
        while True:
            reply = self._read()
            if "error" in reply:
                raise Refused(f"the VMM's monitor refused {name}: {_text(reply['error'])}")
            if "return" in reply:
                return reply["return"]

    def add_file(self, descriptor: int, word: str) -> int:
        """Give QEMU a descriptor of ours, with `word` to know it again; the number of its set."""
        reply = self.run("add-fd", {"opaque": word}, descriptor=descriptor)
        return whole(reply.get("fdset-id") if isinstance(reply, dict) else None)

    def quit(self) -> None:
        """End the VM, which has written all that it has by then."""
        self._ask([("quit", {})])
        self._answered(1)

    def _ask(self, commands: "Sequence[tuple[str, dict[str, Any]]]", descriptors: "Sequence[int]" = ()) -> None:
        try:
            socket.send_fds(self._socket, [spoken(commands).encode()], list(descriptors))
        except OSError as error:
            raise VmFailed(f"the VMM's monitor does not accept commands: {error.strerror}") from None

    def _answered(self, count: int, *, or_migrated: bool = False) -> None:
        """Wait until that many commands have completed, and what one of them started."""
        migrated = not or_migrated
        while count or not migrated:
            reply = self._read()
            if "error" in reply:
                raise VmFailed(f"the VMM's monitor refused a command: {_text(reply['error'])}")
            if "return" in reply:
                count -= 1
            status = _status(reply)
            if status in ("failed", "cancelled"):
                raise VmFailed("the VMM could not save or load the state of a guest")
            migrated = migrated or status == "completed"

    def _read(self) -> "dict[str, Any]":
        while b"\n" not in self._buffer:
            self._socket.settimeout(max(self._until - time.monotonic(), 0.001))
            try:
                data = self._socket.recv(65536)
            except TimeoutError:
                raise VmFailed("the VMM's monitor did not answer in time") from None
            except OSError as error:
                raise VmFailed(f"the VMM's monitor can't be read: {error.strerror}") from None
            self._bytes += len(data)
            if not data or self._bytes > self._most_bytes:
                raise VmFailed("the VMM's monitor was closed" if not data else "the VMM's monitor sent too much")
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        if sum(map(line.count, b"[{,")) > _MOST_VALUES:
            raise VmFailed("the VMM's monitor sent too much")
        try:
            reply = json.loads(line)
        except (ValueError, RecursionError):
            reply = None
        if not isinstance(reply, dict):
            raise VmFailed("the VMM's monitor sent something other than a JSON object")
        return reply


def whole(value: object) -> int:
    """A number of QEMU's for one of its things. Raises VmFailed for what is none."""
    if type(value) is not int or not 0 <= value < _MOST_NUMBER:
        raise VmFailed("the VMM's monitor answered with something other than the number of a descriptor")
    return value


def _status(reply: "dict[str, Any]") -> str:
    data = reply.get("data")
    return str(data.get("status")) if reply.get("event") == "MIGRATION" and isinstance(data, dict) else ""


def _text(error: object) -> str:
    return both_ends(str(error.get("desc") if isinstance(error, dict) else error), 400)
