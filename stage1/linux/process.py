# SPDX-License-Identifier: Apache-2.0
"""Processes: start one, know it again, wait, kill; run a tool to its end within a time limit.

Called by vm, rootfs, net and the engine. A process is a pid with its start time (or a pidfd), never a pid alone, which
the kernel reuses. Must not fork: the daemon has threads.
"""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import select
import sys
import time
from collections.abc import Mapping, Sequence
from signal import pidfd_send_signal
from types import TracebackType
from typing import NamedTuple

from stage1.errors import NotFound, TimedOut
from stage1.linux import libc
from stage1.linux.libc import Guard, failure

# The signal module costs an import of enum. These numbers hold on x86 and arm.
SIGKILL, SIGTERM, _SIGPIPE, _SIGXFSZ = 9, 15, 13, 25
SIGCONT, SIGSTOP = 18, 19

_PR_SET_NAME = 15
_OUTPUT_LIMIT_BYTES = 16 << 20
_DRAIN_S = 0.5
_STAT_BYTES = 4096
"""More than 52 numbers and a name have, so that one read gets all."""


def most_open_files() -> int:
    """The hard limit of open files of this process and its children."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return hard if hard != resource.RLIM_INFINITY else sys.maxsize


def capabilities() -> int:
    """The bounding set, as a mask: what a process that we start can have at most."""
    with open("/proc/thread-self/status", encoding="ascii", errors="replace") as file:
        sets = [line.split()[1] for line in file if line.startswith("CapBnd:")]
    return int(sets[0], 16)


def set_name(name: str) -> None:
    """Be called by that, of which the kernel keeps 15 bytes, in `ps` and proc_pid_stat(5)."""
    libc.call("prctl", _PR_SET_NAME, os.fsencode(name), what="PR_SET_NAME")


def start_time(pid: int) -> int:
    """The start time of `pid`, in clock ticks since boot. Raises NotFound."""
    return int(_stat(pid)[19])


def used_s(pid: int) -> float:
    """Seconds of processors that `pid` has used, with all its threads. Raises NotFound."""
    fields = _stat(pid)
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _stat(pid: int) -> list[bytes]:
    """The fields of proc_pid_stat(5) from the third on. Raises NotFound."""
    try:
        fd = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
        try:
            # The second field is the name in parentheses and may itself hold spaces and parentheses.
            return os.read(fd, _STAT_BYTES).rpartition(b")")[2].split()
        finally:
            os.close(fd)
    except (FileNotFoundError, ProcessLookupError):
        raise NotFound(f"there is no process {pid}") from None


def spawn(
    argv: Sequence[str],
    *,
    stdin: int | None = None,
    stdout: int | None = None,
    stderr: int | None = None,
    env: Mapping[str, str] | None = None,
) -> int:
    """Start argv[0] (looked up on PATH when it has no slash) in a session of its own; its pid, for the caller to reap.

    stdin None is /dev/null, stdout and stderr None are ours; the descriptors stay the caller's and no others are
    inherited. Signals have their defaults. Raises KernelError.
    """
    given = {number: fd for number, fd in enumerate((stdin, stdout, stderr)) if fd is not None}
    return spawn_with(argv, given, env=env)


def spawn_with(argv: Sequence[str], descriptors: Mapping[int, int], *, env: Mapping[str, str] | None = None) -> int:
    """Like `spawn`, and the program gets each of our `descriptors` under the number before it."""
    actions: list[tuple[int, ...] | tuple[int, int, str, int, int]] = []
    if 0 not in descriptors:
        actions.append((os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0))
    actions += [(os.POSIX_SPAWN_CLOSE, fd) for fd in _inheritable() if fd not in descriptors.values()]
    above, copies = max(descriptors, default=0) + 1, list[int]()
    try:
        with Guard("posix_spawn", argv[0]):
            for number, fd in descriptors.items():
                # Not itself: its number may be one that another gets.
                copies.append(fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, above))
                actions.append((os.POSIX_SPAWN_DUP2, copies[-1], number))
            actions += [(os.POSIX_SPAWN_CLOSE, fd) for fd in set(descriptors.values()) if _outlives(fd, descriptors)]
            return os.posix_spawnp(
                argv[0],
                list(argv),
                os.environ if env is None else env,
                file_actions=actions,
                setsid=True,
                setsigmask=(),
                setsigdef=(_SIGPIPE, _SIGXFSZ),
            )
    finally:
        for fd in copies:
            os.close(fd)


def _outlives(fd: int, descriptors: Mapping[int, int]) -> bool:
    """Whether it would be open in the program under a number that was not assigned to it."""
    return fd > 2 and fd not in descriptors and os.get_inheritable(fd)


def _inheritable() -> list[int]:
    """Descriptors past the first three that a program started by us would get: whoever started us left them open.

    None where /proc can't be read, as in a confined process (`sandbox`), which is given no others.
    """
    pids = []
    try:
        names = os.listdir("/proc/self/fd")
    except OSError:
        return []
    for name in names:
        try:
            if int(name) > 2 and os.get_inheritable(int(name)):
                pids.append(int(name))
        except OSError:
            continue  # closed meanwhile, such as the one that listed the directory
    return pids


class PidHandle:
    """A process that can't be mistaken for another: owns a pidfd. Close it, or use it in a `with`."""

    def __init__(self, pid: int, fd: int) -> None:
        self.pid = pid
        self.exit_code: int | None = None
        """Known after it ended, and only if it was our child: the exit status, or 128 + the signal."""
        self._fd = fd

    def __enter__(self) -> PidHandle:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the descriptor; the process is not affected. Idempotent."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def fileno(self) -> int:
        """The pidfd, readable once the process has ended; for poll."""
        return self._fd

    def alive(self) -> bool:
        """Whether it still runs; a zombie does not."""
        return not self.wait(0)

    def wait(self, timeout_s: float) -> bool:
        """Wait until it has ended, at most `timeout_s`; true if it has. A child of ours is reaped."""
        poll = select.poll()
        poll.register(self._fd, select.POLLIN)
        if not poll.poll(max(0, timeout_s) * 1000):
            return False
        self._reap()
        return True

    def see_end(self) -> None:
        """Wait until it has ended, without a limit; it is not reaped, so that another caller can read its status."""
        poll = select.poll()
        poll.register(self._fd, select.POLLIN)
        poll.poll()

    def _reap(self) -> None:
        try:
            ended = os.waitid(os.P_PIDFD, self._fd, os.WEXITED | os.WNOHANG)
        except ChildProcessError:
            return
        if ended is not None:
            killed = ended.si_code != os.CLD_EXITED
            self.exit_code = ended.si_status + (128 if killed else 0)

    def kill(self, signal: int = SIGKILL) -> None:
        """Send `signal` to it; fine when it has ended."""
        with Guard("pidfd_send_signal", f"process {self.pid} signal {signal}"):
            try:
                pidfd_send_signal(self._fd, signal)
            except ProcessLookupError:
                pass


def hold(pid: int) -> PidHandle:
    """A child of ours that was just started and was not reaped yet. Raises KernelError; it has been killed then."""
    try:
        with Guard("pidfd_open", f"process {pid}"):
            return PidHandle(pid, os.pidfd_open(pid))
    except BaseException:
        os.kill(pid, SIGKILL)
        os.waitpid(pid, 0)
        raise


def pipes(count: int, what: str) -> list[tuple[int, int]]:
    """Create that many pipes, each with its ends for reading and writing, or none. The caller closes them. Raises
    KernelError.
    """
    made: list[tuple[int, int]] = []
    try:
        with Guard("pipe2", what):
            for _ in range(count):
                made.append(os.pipe2(os.O_CLOEXEC))
    except BaseException:
        for fd in (fd for ends in made for fd in ends):
            os.close(fd)
        raise
    return made


def open_process(pid: int, started: int) -> PidHandle | None:
    """The process that has `pid` and started at `started` (`start_time`); None when it has gone."""
    try:
        fd = os.pidfd_open(pid)
    except OSError as error:
        # EINVAL: a pid of 0 or less, out of a damaged state file.
        if error.errno in (errno.ESRCH, errno.EINVAL):
            return None
        raise failure("pidfd_open", error.errno or errno.EIO, f"process {pid}") from error
    try:
        # After pidfd_open: a match now means that the descriptor is of that process, and not of a later one.
        if start_time(pid) == started:
            return PidHandle(pid, fd)
    except NotFound:
        pass
    os.close(fd)
    return None


class Result(NamedTuple):
    """The result of a tool: exit status (128 + signal if killed) and its output."""

    code: int
    stdout: bytes
    stderr: bytes


def run(
    argv: Sequence[str],
    *,
    timeout_s: float,
    input: bytes | None = None,  # noqa: A002  the name that subprocess.run made common
    env: Mapping[str, str] | None = None,
) -> Result:
    """Run a tool to its end. Raises KernelError when it can't start, TimedOut when it was killed for time."""
    pipes = _Pipes(input)
    try:
        pid = spawn(argv, stdin=pipes.child[0], stdout=pipes.child[1], stderr=pipes.child[2], env=env)
        with hold(pid) as process:
            pipes.close_child()
            return _finish(process, pipes, argv[0], timeout_s)
    finally:
        pipes.close()


def _finish(process: PidHandle, pipes: _Pipes, name: str, timeout_s: float) -> Result:
    deadline = time.monotonic() + timeout_s
    try:
        pipes.pump(process, deadline)
        if not process.wait(deadline - time.monotonic()):
            raise TimedOut(f"{name} did not finish within {timeout_s:g} s and was killed")
    except BaseException:
        _kill_group(process)
        raise
    out, err = (bytes(b) for b in pipes.output)
    return Result(-1 if process.exit_code is None else process.exit_code, out, err)


def _kill_group(process: PidHandle) -> None:
    # Not yet reaped, so the group's number is still its own.
    try:
        os.killpg(process.pid, SIGKILL)
    except ProcessLookupError:
        pass
    process.wait(5)


class _Pipes:
    """The three pipes of `run`, pumped together so that none of them can block the tool."""

    def __init__(self, given: bytes | None) -> None:
        self.child: list[int] = []
        self.output = (bytearray(), bytearray())
        self._given = memoryview(given or b"")
        self._ours: list[int] = []
        with Guard("pipe2", "the pipes of a tool"):
            try:
                self._make(given is not None)
            except OSError:
                self.close()
                raise

    def _make(self, with_input: bool) -> None:
        for number in range(3):
            if number == 0 and not with_input:
                self._add(os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC), -1)
                continue
            read_end, write_end = os.pipe()
            mine, theirs = (write_end, read_end) if number == 0 else (read_end, write_end)
            self._add(theirs, mine)
            os.set_blocking(mine, False)

    def _add(self, theirs: int, mine: int) -> None:
        self.child.append(theirs)
        self._ours.append(mine)

    def pump(self, process: PidHandle, deadline: float) -> None:
        """Move bytes until both outputs end; a grandchild that keeps them open is not waited for."""
        ended = False
        while time.monotonic() < deadline and any(fd >= 0 for fd in self._ours[1:]):
            ready = self._poll(-1 if ended else process.fileno(), deadline)
            if not ended and process.fileno() in ready:
                ended, deadline = True, min(deadline, time.monotonic() + _DRAIN_S)
            for number, fd in enumerate(self._ours):
                if fd in ready:
                    self._move(number, fd)

    def _poll(self, pidfd: int, deadline: float) -> set[int]:
        poll = select.poll()
        for number, fd in enumerate((*self._ours, pidfd)):
            if fd >= 0:
                poll.register(fd, select.POLLOUT if number == 0 else select.POLLIN)
        return {fd for fd, _ in poll.poll(max(0, deadline - time.monotonic()) * 1000)}

    def _move(self, number: int, fd: int) -> None:
        done = self._feed(fd) if number == 0 else self._drain(fd, self.output[number - 1])
        if done:
            os.close(fd)
            self._ours[number] = -1

    def _feed(self, fd: int) -> bool:
        try:
            self._given = self._given[os.write(fd, self._given[:65536]) :]
        except BlockingIOError:
            return False
        except BrokenPipeError:
            return True
        return not self._given

    def _drain(self, fd: int, into: bytearray) -> bool:
        data = os.read(fd, 65536)
        into += data[: _OUTPUT_LIMIT_BYTES - len(into)]
        return not data

    def close_child(self) -> None:
        """Close the tool's ends, so that the outputs end with it."""
        while self.child:
            os.close(self.child.pop())

    def close(self) -> None:
        """Close all open descriptors."""
        self.close_child()
        for fd in self._ours:
            if fd >= 0:
                os.close(fd)
        self._ours = []
