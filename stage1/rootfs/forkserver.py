# SPDX-License-Identifier: Apache-2.0
"""The fork server: a Python process that has loaded what confined processes need, and forks one for each request.

Started by `forking`, from which its requests come by a socket (descriptor 0): a request consists of descriptors
only. The server has one thread. It reads neither images nor the tasks themselves, so a child's memory has no data of
others. A child confines itself (`linux.confine`) before it does anything else. It is the first process of a PID
namespace, and is killed when the server ends or the client closes its socket. docs/design/images.md has the reasons.
"""

import errno
import gc
import importlib
import json
import os
import select
import socket
import sys
from typing import NamedTuple

from stage1.errors import KernelError
from stage1.linux import confine, mapped, namespace, process, sandbox
from stage1.rootfs import child
from stage1.rootfs.answers import DESCRIPTORS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

_COULD_NOT_START = 125
_MOST_FILES = 1 << 30
_PAUSE_MS = 1000
"""Without a request for so long, the server gives memory back that the next one need not have."""
_LIFE = 3
"""A child's descriptor behind the standard ones, until it is confined."""


class _Child(NamedTuple):
    pid: int
    pidfd: int
    status: socket.socket
    """Gets the exit status. Readable when who asked wants the child killed, or has gone."""


def main() -> None:
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

    def _fork(self, fds: "Sequence[int]") -> int:
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


def _begin(fds: "Sequence[int]", *, alive: tuple[int, int]) -> None:
    """Be the child. Does not return."""
    try:
        _run_child(fds, alive=alive)
    except BaseException as error:  # noqa: BLE001  whatever it is, the child must not continue in the server's code
        os.write(2, f"{child.described(error)}\n".encode())
    finally:
        os._exit(_COULD_NOT_START)


def _run_child(fds: "Sequence[int]", *, alive: tuple[int, int]) -> None:
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
    child.main()
