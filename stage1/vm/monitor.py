# SPDX-License-Identifier: Apache-2.0
"""QEMU's monitor (QMP): saves guests and loads them. A template, whose memory is a file that the VM maps, on a socket
that QEMU has inherited, which is closed before a loaded guest gets its pod; a pod's guest, memory and devices, to and
from a file, on the pod's own.

Called by `starter`, `medium` and `stage1.snapshot`, blocking. QEMU gets all files as descriptors. What is read has a
limit in time and in bytes.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

from stage1.errors import NoSpace, VmFailed, both_ends
from stage1.linux.libc import Guard
from stage1.vm.spec import MONITOR_FD
from stage1.vm.template import BEGIN, LOAD, RAM_FD, STATE_FD, STATE_SET, STATE_URI, Template, spoken
from stage1.vm.vmm import VmProcess

LIMIT_S = 60.0
"""Time limits for a guest to be saved or loaded, which takes milliseconds; and for QEMU to start."""
_MOST_BYTES = 1 << 20
_MOST_NUMBER, _MOST_VALUES = 1 << 63, 1 << 17
"""The latter of one answer: each takes many times of its text in memory."""

_BANDWIDTH = 1 << 40
_FIRST_PAUSE_S, _LAST_PAUSE_S, _GROWTH = 0.001, 0.25, 1.1
"""Delay between queries of the progress, whose answers are bounded together. Of a guest that is saved or loaded in
20 ms, 1 ms is lost by them.
"""


class Refused(VmFailed):
    """QEMU has not done one command, and takes others."""


class Monitor:
    """A context manager, which closes the socket. All methods raise VmFailed when QEMU refuses, ends or is late."""

    def __init__(self, connected: int, *, limit_s: float = LIMIT_S, most_bytes: int = _MOST_BYTES) -> None:
        """Takes the descriptor `connected` over. The time runs from now on; QEMU may say so many bytes in all."""
        self._most_bytes = most_bytes
        self._socket = socket.socket(fileno=connected)
        self._until, self._bytes, self._buffer = time.monotonic() + limit_s, 0, bytearray()

    def __enter__(self) -> Monitor:
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

    def run(self, name: str, arguments: dict[str, Any] | None = None, *, descriptor: int = -1) -> Any:
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

    def _ask(self, commands: Sequence[tuple[str, dict[str, Any]]], descriptors: Sequence[int] = ()) -> None:
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

    def _read(self) -> dict[str, Any]:
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


def _status(reply: dict[str, Any]) -> str:
    data = reply.get("data")
    return str(data.get("status")) if reply.get("event") == "MIGRATION" and isinstance(data, dict) else ""


def _text(error: object) -> str:
    return both_ends(str(error.get("desc") if isinstance(error, dict) else error), 400)


def save_guest(monitor: Monitor, path: str, *, is_awaited: Callable[[], bool] = lambda: True) -> None:
    """Save the guest, which is stopped and has no medium (`medium.take_out`), into the file. Raises NoSpace, VmFailed,
    also when it is not awaited any more.
    """
    monitor.run("migrate-set-parameters", {"max-bandwidth": _BANDWIDTH})
    try:
        _migrate(monitor, "migrate", path=path, is_awaited=is_awaited)
    except VmFailed as error:
        if os.strerror(errno.ENOSPC) in str(error):
            raise NoSpace(
                f"there is no space for the memory of a guest at {path}; free some, or choose a larger file system"
            ) from None
        raise


def load_guest(monitor: Monitor, path: str, *, vm: VmProcess | None) -> None:
    """Load the guest, which does not run yet, into `vm`. Raises VmFailed with QEMU's last output, since QEMU ends when
    it can't; KernelError.
    """
    try:
        _migrate(monitor, "migrate-incoming", path=path)
    except VmFailed as error:
        last = vm.console_tail(1).strip() if vm else ""
        raise VmFailed(f"the guest saved in {path} can't be loaded: {last or error}") from None


def settled(monitor: Monitor, is_awaited: Callable[[], bool] = lambda: True) -> str:
    """The result of the transfer, for people; empty if none was started. It is cancelled if its caller is."""
    pause_s = _FIRST_PAUSE_S
    while True:
        reply = monitor.run("query-migrate")
        status = str(reply.get("status", "")) if isinstance(reply, dict) else ""
        if status in ("", "completed", "failed", "cancelled"):
            return both_ends(f"{status} {reply.get('error-desc', '')}".strip(), 400) if status else ""
        if not is_awaited():
            monitor.run("migrate_cancel")
        time.sleep(pause_s)
        pause_s = min(_GROWTH * pause_s, _LAST_PAUSE_S)


def _migrate(monitor: Monitor, command: str, *, path: str, is_awaited: Callable[[], bool] = lambda: True) -> None:
    flags = os.O_WRONLY if command == "migrate" else os.O_RDONLY
    with Guard("open", path):
        fd = os.open(path, flags | os.O_CLOEXEC)
    try:
        number = monitor.add_file(fd, "guest")
    finally:
        os.close(fd)
    try:
        monitor.run(command, {"uri": f"file:/dev/fdset/{number}"})
        if (status := settled(monitor, is_awaited)) != "completed":
            raise VmFailed(f"the VMM failed to {command} a guest: {status}")
    finally:
        monitor.run("remove-fd", {"fdset-id": number})


class Ends:
    """Context manager with both ends of the monitor of a VMM that is to be a copy of a template, and that template's
    files, which can only be read.
    """

    def __init__(self, template: Template) -> None:
        """Raises KernelError, also when the template has gone."""
        with ExitStack() as opened:
            files = {STATE_FD: _open(template.state, opened), RAM_FD: _open(template.ram, opened)}
            with Guard("socketpair", "a monitor"):
                self._ours, self._theirs = (opened.enter_context(end) for end in socket.socketpair())
            self._opened = opened.pop_all()
        self.theirs = {MONITOR_FD: self._theirs.fileno(), **files}
        """Descriptors of ours, and the numbers that they have in the VMM."""

    def __enter__(self) -> Ends:
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()

    def load(self) -> None:
        """Load the state; the guest runs then, and the monitor is not reachable any more. Raises VmFailed, also if
        the VMM ends.
        """
        self._theirs.close()
        with Monitor(self._ours.detach()) as monitor:
            monitor.load()


def _open(path: str, opened: ExitStack) -> int:
    with Guard("open", path):
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    opened.callback(os.close, fd)
    return fd
