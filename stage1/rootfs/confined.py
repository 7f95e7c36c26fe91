# SPDX-License-Identifier: Apache-2.0
"""The program of the processes that read untrusted bytes: a server that forks them, and what runs in each.

Started by `worker`. A child confines itself (`linux.confine`) before it does anything else, calls one function, and
writes its result as JSON, which the caller validates. The server has loaded the modules of such functions. Its requests
come by a socket (descriptor 0) and consist of descriptors only; it has one thread, and reads neither images nor the
tasks themselves, so a child's memory has no data of others. A child is the first process of a PID namespace, and is
killed when the server ends or its client closes its socket. docs/design/images.md has the reasons.
"""

import errno
import gc
import importlib
import json
import os
import select
import socket
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from stage1.errors import KernelError, PodError, both_ends
from stage1.linux import confine, mapped, namespace, process, sandbox
from stage1.rootfs.worker import DESCRIPTORS, EVENT, INTERNAL, KINDS, LENGTH_DIGITS, MEMORY

_OUT_OF_MEMORY = b'{"error": "%s", "sentence": ""}' % MEMORY.encode()
_COULD_NOT_START = 125
_MOST_FILES = 1 << 30
_PAUSE_MS = 1000
"""Without a request for so long, the server gives memory back that the next one need not have."""
_LIFE = 3
"""A child's descriptor behind the standard ones, until it is confined."""


# What runs in each process.


def main() -> None:
    """`sys.argv`: a module, then the arguments for its function `job`. What that raises is the answer too.

    Without arguments it is a worker: questions with data come by standard input until that ends.
    """
    job = importlib.import_module(sys.argv[1]).job
    if sys.argv[2:]:
        _write(_answer(job, tuple(sys.argv[2:])))
    else:
        _serve(job)
    os._exit(0)


def _serve(job: Callable[..., Any]) -> None:
    with open(0, "rb", closefd=False) as file:
        while lengths := file.read(2 * LENGTH_DIGITS):
            arguments = json.loads(file.read(int(lengths[:LENGTH_DIGITS])))
            _say(_answer(_told, job, tuple(arguments), file.read(int(lengths[LENGTH_DIGITS:]))))


def _told(job: Callable[..., Any], *given: Any) -> Any:
    """The result of `job`, or of what it returns if that yields events, each of which is said at once."""
    result = job(*given)
    while hasattr(result, "__next__"):
        try:
            event = next(result)
        except StopIteration as end:
            return end.value
        _say(json.dumps({"ok": {EVENT: event}}).encode())
    return result


def _say(text: bytes) -> None:
    _write(b"%0*d" % (LENGTH_DIGITS, len(text)) + text)


def _write(text: bytes) -> None:
    view = memoryview(text)
    while view:
        view = view[os.write(1, view) :]


def _answer(job: Callable[..., Any], *given: Any) -> bytes:
    answer: dict[str, Any]
    try:
        answer = {"ok": job(*given)}
    except PodError as error:
        kind = next((name for name in (k.__name__ for k in type(error).__mro__) if name in KINDS), "Corrupt")
        answer = {"error": kind, "sentence": str(error)}
    except MemoryError:
        return _OUT_OF_MEMORY
    except Exception as error:  # noqa: BLE001 - any way in which foreign bytes can break a reader
        answer = {"error": INTERNAL, "sentence": described(error)}
    try:
        return json.dumps(answer).encode()
    except MemoryError:
        return _OUT_OF_MEMORY


def described(error: BaseException) -> str:
    """The error and where it was raised, for debugging: `IndexError: ... (facts.py, line 7)`."""
    trace = error.__traceback__
    while trace and trace.tb_next:
        trace = trace.tb_next
    where = f" ({os.path.basename(trace.tb_frame.f_code.co_filename)}, line {trace.tb_lineno})" if trace else ""
    return f"{type(error).__name__}: {both_ends(str(error), 200)}{where}"


# The server that forks them.


class _Child(NamedTuple):
    pid: int
    pidfd: int
    status: socket.socket
    """Gets the exit status. Readable when who asked wants the child killed, or has gone."""


def serve() -> None:
    """`sys.argv`: the modules to load. Serves until descriptor 0 is at its end."""
    for name in sys.argv[1:]:
        importlib.import_module(name)
    gc.freeze()  # a collection in a child would copy all pages
    with socket.socket(fileno=os.dup(0)) as asked:
        _Server(asked).serve()
    os._exit(0)


class _Server:
    def __init__(self, asked: socket.socket) -> None:
        self._asked = asked
        self._home = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
        self._alive = os.pipe()
        self._children: dict[int, _Child] = {}
        """The children, by their pidfds, and by the descriptors of their sockets."""
        self._poll = select.poll()
        self._poll.register(asked, select.POLLIN)

    def serve(self) -> None:
        """Serve until no client is left; then all children end."""
        pause_ms: int | None = _PAUSE_MS
        while True:
            ready = {fd for fd, _ in self._poll.poll(pause_ms)}
            if not ready:
                mapped.release()
            pause_ms = _PAUSE_MS if ready else None
            for fd in ready & self._children.keys():
                self._end_child(fd)
            # Last, since a new child's descriptors may have the numbers of one that has just ended.
            if self._asked.fileno() in ready and not self._accept():
                return

    def _accept(self) -> bool:
        """Take a request; False when there are no more."""
        mark, fds, _, _ = socket.recv_fds(self._asked, 1, DESCRIPTORS)
        if not mark:
            return False
        if not fds:
            return True  # no descriptor is free; the client sees that its socket is closed
        first, *others = fds
        status = socket.socket(fileno=first)
        try:
            if len(fds) < DESCRIPTORS:
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
            self._keep(self._fork(others), status)
        except (OSError, KernelError) as error:
            _tell(status, b"!%d" % (error.errno or 0))
            status.close()
        finally:
            for fd in others:
                os.close(fd)
        return True

    def _fork(self, fds: Sequence[int]) -> int:
        namespace.unshare(confine.NEW_PID)
        try:
            if (pid := os.fork()) == 0:
                _begin(fds, alive=self._alive)
        finally:
            namespace.setns(self._home, confine.NEW_PID)
        return pid

    def _keep(self, pid: int, status: socket.socket) -> None:
        try:
            one = _Child(pid, os.pidfd_open(pid), status)
        except OSError:
            os.kill(pid, process.SIGKILL)
            os.waitpid(pid, 0)
            raise
        for fd in (one.pidfd, status.fileno()):
            self._children[fd] = one
            self._poll.register(fd, select.POLLIN)

    def _end_child(self, fd: int) -> None:
        """Reap the child whose exit this descriptor reports, or kill it if its client is gone."""
        one = self._children.pop(fd, None)
        if one is None:
            return  # both at once
        self._poll.unregister(fd)
        if fd == one.pidfd:
            self._reap(one)
        else:
            os.kill(one.pid, process.SIGKILL)  # not reaped, so the number is still its own

    def _reap(self, one: _Child) -> None:
        code = os.waitstatus_to_exitcode(os.waitpid(one.pid, 0)[1])
        _tell(one.status, b"%d" % (code if code >= 0 else 128 - code))
        if self._children.pop(one.status.fileno(), None):
            self._poll.unregister(one.status)
        os.close(one.pidfd)
        one.status.close()


def _tell(status: socket.socket, text: bytes) -> None:
    try:
        status.send(text, socket.MSG_NOSIGNAL)
    except OSError:
        pass  # the client is gone


def _begin(fds: Sequence[int], *, alive: tuple[int, int]) -> None:
    """Be the child. Does not return."""
    try:
        _run_child(fds, alive=alive)
    except BaseException as error:  # noqa: BLE001  whatever it is, the child must not continue in the server's code
        os.write(2, f"{described(error)}\n".encode())
    finally:
        os._exit(_COULD_NOT_START)


def _run_child(fds: Sequence[int], *, alive: tuple[int, int]) -> None:
    confine.die_with_parent()
    os.setsid()
    *standard, asked = fds
    for number, fd in enumerate(standard):
        os.dup2(fd, number)
    request = json.loads(os.pread(asked, os.fstat(asked).st_size, 0))
    os.dup2(alive[0], _LIFE, inheritable=False)
    os.closerange(_LIFE + 1, _MOST_FILES)
    confine.confine(sandbox.Box(*request["box"]), request["places"])
    if select.select([_LIFE], [], [], 0)[0]:
        return  # the server had ended before it could take us with it
    os.close(_LIFE)
    sys.argv[1:] = request["job"]
    process.set_name(sys.argv[1].rpartition(".")[2])
    main()
