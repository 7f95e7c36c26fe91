# SPDX-License-Identifier: Apache-2.0
"""Runs one confined program, takes its output in pieces, and ends it at its limits of time and size, or when it is
cancelled.

Called by `rootfs` from threads. Nothing that the program does can make us wait longer or keep more than it was given.
"""

import contextlib
import fcntl
import os
import select
import time
from collections.abc import Callable, Generator, Sequence
from typing import NamedTuple, Protocol

from stage1.errors import PodError, TimedOut, both_ends
from stage1.linux import process, sandbox


class Child(Protocol):
    """A program that was started."""

    @property
    def exit_code(self) -> int | None:
        """The exit status, or 128 + the signal; None until `wait` has seen its end."""
        ...

    def wait(self, timeout_s: float) -> bool:
        """Wait until it has ended, at most `timeout_s`; true if it has."""
        ...

    def kill(self) -> None:
        """Kill it, and all that it started. Idempotent."""
        ...

    def close(self) -> None:
        """Give back what is kept of it. Idempotent."""
        ...


Start = Callable[["Standard"], Child]


CHUNK_BYTES = 1 << 18
TAIL_BYTES = 4096
TICK_S = 0.2
_END_S = 10.0
_GRACE_S = 2.0
_F_SETPIPE_SZ = 1031


class Stopped(PodError):
    """The caller no longer wants the result."""

    grpc_code = "CANCELLED"


def never() -> bool:
    """The `stop` of callers that always wait for the result."""
    return False


def nothing() -> None:
    """Check nothing: the default of `check`."""


class Standard(NamedTuple):
    """A program's standard descriptors, which stay the caller's; `stdin` None is /dev/null."""

    stdin: int | None
    stdout: int
    stderr: int


class Job(NamedTuple):
    """A program: how it is started, what it reads, and when it is ended."""

    start: Start
    stdin: int
    """A descriptor, the caller's; -1 for /dev/null."""
    timeout_s: float
    stop: Callable[[], bool] = never
    """Asked some times a second; true ends it with `Stopped`."""
    check: Callable[[], None] = nothing
    """Called as often; what it raises ends the program."""
    copy: Callable[[int, int], int] | None = None
    """As `feeding.Fed.copy`, called with the pipe of standard output before anything is read from there."""


class Ended(NamedTuple):
    """The result: exit status (128 + signal if killed), and the end of its standard error."""

    code: int
    last: str


class _Program:
    """A child of ours, first of its session. The programs of `sandbox.command` end with it."""

    def __init__(self, pid: int) -> None:
        self._held = process.hold(pid)

    @property
    def exit_code(self) -> int | None:
        return self._held.exit_code

    def wait(self, timeout_s: float) -> bool:
        return self._held.wait(timeout_s)

    def kill(self) -> None:
        # Not yet reaped, so the group's number is still its own. All that it started is in its PID namespace, whose
        # first process is in the group.
        if self.exit_code is None:
            try:
                os.killpg(self._held.pid, process.SIGKILL)
            except ProcessLookupError:
                pass

    def close(self) -> None:
        self._held.close()


def program(argv: Sequence[str]) -> Start:
    """The program of these arguments, with those of `sandbox.command` before them."""

    return lambda standard: _Program(process.spawn(argv, **standard._asdict(), env=sandbox.ENVIRONMENT))


def output(job: Job, outcome: list[Ended]) -> Generator[bytes, None, None]:
    """What the program writes to standard output, in pieces; then `outcome` gets how it ended.

    Close it when you leave early: the program is killed with all that it started. Raises KernelError, TimedOut,
    Stopped, what `job.look` raises.
    """
    out, err = process.pipes(2, "the pipes of a program")
    ends = {*out, *err}
    try:
        widen(out[1])
        child = job.start(Standard(None if job.stdin < 0 else job.stdin, out[1], err[1]))
        try:
            for fd in (out[1], err[1]):
                os.close(fd)
                ends.remove(fd)
            yield from _supervised(child, job, out=out[0], err=err[0], outcome=outcome)
        finally:
            child.close()
    finally:
        for fd in ends:
            os.close(fd)


def widen(fd: int) -> None:
    """Best-effort: whose user has many pipes, as a node with hundreds of pods, may not have larger ones (pipe(7))."""

    with contextlib.suppress(PermissionError):
        fcntl.fcntl(fd, _F_SETPIPE_SZ, CHUNK_BYTES)


def _supervised(child: Child, job: Job, *, out: int, err: int, outcome: list[Ended]) -> Generator[bytes, None, None]:
    deadline = time.monotonic() + job.timeout_s
    tail = bytearray()
    try:
        yield from _pieces(job, out, err=err, deadline=deadline, tail=tail)
        while not child.wait(TICK_S):
            _check(job, deadline)
    finally:
        end(child)
    outcome.append(Ended(-1 if child.exit_code is None else child.exit_code, last_line(bytes(tail))))


def _pieces(job: Job, out: int, *, err: int, deadline: float, tail: bytearray) -> Generator[bytes, None, None]:
    poll = select.poll()
    poll.register(out, select.POLLIN)
    poll.register(err, select.POLLIN)
    waiting, checked_s = {out, err}, 0.0
    while waiting:
        ready = {fd for fd, _ in poll.poll(TICK_S * 1000)}
        now = time.monotonic()
        if now - checked_s >= TICK_S:
            checked_s = now
            _check(job, deadline)
        for fd in ready:
            size = job.copy(fd, CHUNK_BYTES) if job.copy and fd == out else 0
            data = os.read(fd, size or CHUNK_BYTES)
            if not data:
                waiting.remove(fd)
                poll.unregister(fd)
            elif fd == err:
                tail += data
                del tail[:-TAIL_BYTES]
            else:
                yield data


def _check(job: Job, deadline: float) -> None:
    if job.stop():
        raise Stopped("the pull was cancelled")
    if time.monotonic() >= deadline:
        raise TimedOut(
            f"a confined program did not finish within {job.timeout_s:.0f} s and was killed; try again later"
        )
    job.check()


def end(child: Child) -> None:
    """Kill it, if it has not ended, and wait for that."""
    if child.exit_code is None:
        child.kill()
        child.wait(_END_S)


def started(start: Start) -> tuple[Child, tuple[int, int, int]]:
    """A program, and our ends of its standard input, output and errors."""
    (theirs_in, in_), (out, theirs_out), (err, theirs_err) = process.pipes(3, "the pipes of a program")
    try:
        return start(Standard(theirs_in, theirs_out, theirs_err)), (in_, out, err)
    except BaseException:
        for fd in (in_, out, err):
            os.close(fd)
        raise
    finally:
        for fd in (theirs_in, theirs_out, theirs_err):
            os.close(fd)


class Talk:
    """A program that is asked several times, by its standard input and output. Close it."""

    def __init__(self, start: Start) -> None:
        """`start` as in a `Job`. Raises KernelError."""
        self._child, (self._in, self._out, self._err) = started(start)
        for fd in (self._in, self._err):
            os.set_blocking(fd, False)

    def send(self, data: bytes, *, timeout_s: float) -> None:
        """Give it `data`, or as much as it takes before it ends. Raises TimedOut."""
        view, deadline = memoryview(data), time.monotonic() + timeout_s
        try:
            while view:
                _await(self._in, select.POLLOUT, deadline)
                view = view[os.write(self._in, view) :]
        except BrokenPipeError:
            return

    def receive(self, size: int, *, timeout_s: float) -> bytes | None:
        """The next `size` bytes that it writes; None when it ends before. Raises TimedOut."""
        received, deadline = bytearray(), time.monotonic() + timeout_s
        while len(received) < size:
            _await(self._out, select.POLLIN, deadline)
            data = os.read(self._out, size - len(received))
            if not data:
                return None
            received += data
        return bytes(received)

    def end(self) -> Ended:
        """Return how it ended; it is killed if it is still running."""
        self._child.wait(1)
        end(self._child)
        try:
            last = os.read(self._err, CHUNK_BYTES)
        except BlockingIOError:
            last = b""
        return Ended(-1 if self._child.exit_code is None else self._child.exit_code, last_line(last[-TAIL_BYTES:]))

    def kill(self) -> None:
        """Kill it; a thread that waits for it sees its end."""
        if self._in >= 0:
            end(self._child)

    def close(self) -> None:
        """End it, by the end of its input or by force, and release its resources. Idempotent.

        If its first process is killed at once, the others of its PID namespace are left to init, and count as processes
        of its user until they are reaped.
        """
        if self._in >= 0:
            os.close(self._in)
            self._in = -1
            self._child.wait(_GRACE_S)
            end(self._child)
            self._child.close()
            os.close(self._out)
            os.close(self._err)


def _await(fd: int, event: int, deadline: float) -> None:
    poll = select.poll()
    poll.register(fd, event)
    if not poll.poll(max(0, deadline - time.monotonic()) * 1000):
        raise TimedOut("a confined program did not answer by its deadline and was killed; try again later")


def last_line(text: bytes) -> str:
    """The end of what a program wrote, as part of an error."""
    lines = text.decode("utf-8", "replace").strip().splitlines()
    return both_ends("".join(c if c.isprintable() else " " for c in lines[-1]), 300) if lines else ""
