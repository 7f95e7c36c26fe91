# SPDX-License-Identifier: Apache-2.0
"""Has confined processes forked by a server that has loaded their modules (`forkserver`): the client's side.

Owned by the pull, used through `confined.Asker`, from threads. A start of Python with its modules, and of the programs
that confine it, costs 30 ms; a fork that confines itself 5. Of a program it would cost more than its start.
"""

import json
import os
import select
import socket
import threading

from stage1.linux import process, sandbox
from stage1.linux.libc import Guard, failure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import BinaryIO

    from stage1.linux.supervise import Child, Standard, Start

_SEND_S = 10.0
_END_S = 2.0
_KILLED = 128 + process.SIGKILL


class ForkServer:
    """A server that the first request starts, and the first one after `close` starts again. Close it."""

    def __init__(self, modules: "Sequence[str]") -> None:
        self._modules = modules
        self._lock = threading.Lock()
        self._asked: socket.socket | None = None
        self._process: process.PidHandle | None = None

    def prepare(self) -> None:
        """Start it, if it was not: it loads the modules while the caller does something else. Raises KernelError."""
        with self._lock:
            self._running()

    def job(self, call: "Sequence[str]", box: sandbox.Box) -> "Start":
        """How to start a child that calls the function `job` of the module `call[0]` with the rest of `call`."""
        assert not box.keeps, "a fork keeps no capability"
        document = {"job": call, "box": box._replace(places=()), "places": sandbox.existing(box)}
        data = json.dumps(document).encode()

        def start(standard: "Standard") -> "Child":
            with Guard("open", "a request"), open("/dev/null", "rb") as nothing, _file(data) as file:
                stdin = nothing.fileno() if standard.stdin is None else standard.stdin
                return self._start((stdin, standard.stdout, standard.stderr, file.fileno()))

        return start

    def _start(self, fds: "Sequence[int]") -> "Child":
        with Guard("socketpair", "the end of a confined process"):
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            with theirs, self._lock:
                self._send([theirs.fileno(), *fds])
        except BaseException:
            ours.close()
            raise
        return _Forked(ours)

    def _send(self, fds: "Sequence[int]") -> None:
        """Send to the server, or to a new one if it has died. Raises KernelError."""
        with Guard("sendmsg", "the fork server"):
            try:
                socket.send_fds(self._running(), [b"f"], fds, socket.MSG_NOSIGNAL)
            except OSError:
                self._end()
                socket.send_fds(self._running(), [b"f"], fds, socket.MSG_NOSIGNAL)

    def _running(self) -> socket.socket:
        if self._asked is None:
            self._asked, self._process = _started(self._modules)
        return self._asked

    def close(self) -> None:
        """End it with all its children. Idempotent."""
        with self._lock:
            self._end()

    def _end(self) -> None:
        if self._asked and self._process:
            self._asked.close()
            if not self._process.wait(_END_S):
                self._process.kill()
                self._process.wait(_END_S)
            self._process.close()
        self._asked = self._process = None


def _file(data: bytes) -> "BinaryIO":
    """A file in memory with that."""
    file = open(os.memfd_create("request", os.MFD_CLOEXEC), "r+b", buffering=0)  # noqa: SIM115  the caller's
    file.write(data)
    return file


def _started(modules: "Sequence[str]") -> tuple[socket.socket, process.PidHandle]:
    with Guard("socketpair", "the fork server"):
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.settimeout(_SEND_S)
    try:
        with theirs:
            argv = sandbox.python(tuple(modules), main="forkserver")
            pid = process.spawn(argv, stdin=theirs.fileno(), env=sandbox.ENVIRONMENT)
        return ours, process.hold(pid)
    except BaseException:
        ours.close()
        raise


class _Forked:
    """A child of the server, known by the socket on which its end is reported. Closing it kills the child."""

    def __init__(self, status: socket.socket) -> None:
        self._status = status
        self.exit_code: int | None = None

    def wait(self, timeout_s: float) -> bool:
        """Like `supervise.Child`. Raises Exhausted if it could not be forked."""
        if self.exit_code is None:
            poll = select.poll()
            poll.register(self._status, select.POLLIN)
            if not poll.poll(max(0, timeout_s) * 1000):
                return False
            self.exit_code = self._told()
        return True

    def _told(self) -> int:
        try:
            text = self._status.recv(64)
        except ConnectionResetError:
            text = b""
        if text.startswith(b"!"):
            raise failure("fork", int(text[1:]), "a confined process")
        return int(text) if text else _KILLED  # the server was

    def kill(self) -> None:
        """Like `supervise.Child`."""
        try:
            self._status.send(b"k", socket.MSG_NOSIGNAL)
        except OSError:
            pass  # it has ended

    def close(self) -> None:
        """Like `supervise.Child`."""
        self._status.close()
