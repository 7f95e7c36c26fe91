# SPDX-License-Identifier: Apache-2.0
"""Runs one command in a lab that is up: takes a free port, sends the request, passes input and output on.

Called by the commands and by start.py, which checks this way whether the lab answers. When this process ends, for
whatever reason, the agent kills the command.
"""

import fcntl
import os
import select
import socket
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple, NoReturn

from tests.lab import plan, protocol, state
from tests.lab.state import LabError

CHUNK_BYTES = 32 * 1024
KEEPER_S = 10.0
"""A keeper ends its other children after one of them ended."""


class Job(NamedTuple):
    """What to run. Without `cwd` it is ours, if the lab has it, else /. `stdin` is passed on if given."""

    argv: list[str]
    cwd: str = ""
    stdin: int = -1
    timeout_s: float = 0.0


def run(directory: Path, job: Job) -> int:
    """The command's exit code; its output is on our standard output and error. Raises LabError."""
    deadline = time.monotonic() + job.timeout_s if job.timeout_s else None
    try:
        with _connection(directory, deadline) as link:
            return _Talk(link, job, deadline).finish()
    except _WentAwayError as error:
        raise LabError(f"{error}\n{_evidence(directory)}", error.code) from None


class _WentAwayError(LabError):
    """Its end of the connection was closed."""


def _evidence(directory: Path) -> str:
    """The last output of the keeper and the console, when the keeper has ended as well."""
    deadline = time.monotonic() + KEEPER_S
    while state.read(directory).record and time.monotonic() < deadline:
        time.sleep(0.05)
    return state.evidence(directory)


@contextmanager
def _connection(directory: Path, deadline: float | None) -> Iterator[socket.socket]:
    number, lock = _take_port(directory, deadline)
    with lock, socket.socket(socket.AF_UNIX) as link:
        place = os.open(directory, os.O_PATH | os.O_DIRECTORY)
        try:
            link.connect(f"/proc/self/fd/{place}/{plan.port(number)}")
        except OSError as error:
            raise LabError(f"the lab in {directory} does not answer: {error}", protocol.LAB_FAILED) from None
        finally:
            os.close(place)
        yield link


def _take_port(directory: Path, deadline: float | None) -> tuple[int, IO[bytes]]:
    locks = [(directory / f"port{number}.lock").open("wb") for number in range(protocol.PORTS)]
    while True:
        for number, lock in enumerate(locks):
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            for other in set(locks) - {lock}:
                other.close()
            return number, lock
        if deadline and time.monotonic() > deadline:
            raise LabError(f"{protocol.PORTS} commands run in the lab, and none ended in time", protocol.TIMED_OUT)
        time.sleep(0.05)


class _Talk:
    """One conversation."""

    def __init__(self, link: socket.socket, job: Job, deadline: float | None) -> None:
        self._link, self._job, self._deadline = link, job, deadline
        self._id = uuid.uuid4().hex
        self._stdin = job.stdin
        self._silent_at: float | None = None
        self._lines = protocol.Lines()

    def finish(self) -> int:
        self._send(
            argv=self._job.argv,
            cwd=self._job.cwd or os.getcwd(),
            anywhere=not self._job.cwd,
            env=plan.passed_on(dict(os.environ)),
            input=self._stdin >= 0,
        )
        while True:
            ready = self._poll()
            if self._stdin in ready:
                self._pass_input()
            if self._link.fileno() in ready:
                code = self._receive()
                if code is not None:
                    return protocol.exit_code(code)

    def _send(self, **message: Any) -> None:
        try:
            self._link.sendall(protocol.encode(id=self._id, **message))
        except OSError as error:
            raise _WentAwayError(f"the lab went away: {error}", protocol.LAB_FAILED) from None

    def _poll(self) -> set[int]:
        poll = select.poll()
        poll.register(self._link, select.POLLIN)
        if self._stdin >= 0:
            poll.register(self._stdin, select.POLLIN)
        limits = [limit for limit in (self._deadline, self._silent_at) if limit is not None]
        left = max(0.0, min(limits) - time.monotonic()) * 1000 if limits else None
        ready = {fd for fd, _ in poll.poll(left)}
        if not ready:
            self._give_up()
        return ready

    def _give_up(self) -> NoReturn:
        if self._silent_at is not None and time.monotonic() >= self._silent_at:
            text = f"the lab said nothing for {protocol.SILENCE_S:g} s: its machine hangs; scripts/lab down ends it"
            raise LabError(text, protocol.LAB_FAILED)
        text = f"{self._job.argv[0]} did not end within {self._job.timeout_s:g} s and was killed"
        raise LabError(text, protocol.TIMED_OUT)

    def _pass_input(self) -> None:
        piece = os.read(self._stdin, CHUNK_BYTES)
        if piece:
            self._send(**{"in": piece})
        else:
            self._send(end=True)
            self._stdin = -1

    def _receive(self) -> int | None:
        try:
            piece = self._link.recv(CHUNK_BYTES)
        except OSError:
            piece = b""
        if not piece:
            raise _WentAwayError("the lab went away while the command ran", protocol.LAB_FAILED)
        for message in self._lines.feed(piece):
            if message["id"] != self._id:
                continue
            if "beat" in message or self._silent_at is not None:
                self._silent_at = time.monotonic() + protocol.SILENCE_S
            for key, stream in (("out", sys.stdout), ("err", sys.stderr)):
                if key in message:
                    stream.buffer.write(protocol.data(message, key))
                    stream.flush()
            if "code" in message:
                return int(message["code"])
        return None
