# SPDX-License-Identifier: Apache-2.0
"""Processes of Python whose modules are loaded already: forks of one that has imported them.

A daemon's imports cost half a second of a processor, and tests that kill daemons start hundreds. `Popen` is for them,
as `subprocess.Popen`: the process is a child of this one, with pid, command line, environment, descriptors and network
of its own, and is killed and waited for as any. Tests of the command line itself, of what is imported, and of other
versions' sources use `subprocess`.

As a program it is the one that forks, `python -m tests.fakes.preloaded SOCKET PADDING`, and ends with its parent.
"""

import ctypes
import functools
import gc
import importlib
import io
import json
import os
import resource
import runpy
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

__all__ = ["Popen", "stop"]

CHECKOUT = str(Path(__file__).parents[2])
MODULES = """cri.cli.parser cri.cli.serve cri.cli.service cri.cli.daemon cri.cli.run.command
cri.cli.run.exec cri.config_check cri.node cri.server cri.owner cri.streaming.server cri.image.source stage1.net.attach
stage1.net.record stage1.pod.model tests.fakes.frames""".split()
"""What daemons and commands load, and with these nearly all of it."""
_COMMAND_LINE_BYTES = 4000
_MOST_BYTES = 1 << 17
_DESCRIPTORS = 4
_NAMESPACES = ("cgroup", "ipc", "mnt", "pid_for_children", "user", "uts")
"""Those that are the same in all that is forked; the network's is the caller's."""
_AT_START = ("LD_", "GLIBC_", "MALLOC_", "PYTHON")
_SUBREAPER = 36
_NEW_NET = 0x40000000
_ARG_START, _ARG_END = 47, 48
"""Fields of /proc/PID/stat, from 0."""


class Popen(subprocess.Popen[Any]):
    """As its base; forked if it is `[sys.executable, "-m", MODULE, ...]` with only streams, cwd, env, session given."""

    def _execute_child(self, args: Any, *given: Any) -> None:
        """Called by its base, in the order of `names`."""
        names = "executable preexec_fn close_fds pass_fds cwd env startupinfo creationflags shell".split()
        options, pipes, rest = dict(zip(names, given, strict=False)), given[len(names) :][:6], given[len(names) + 6 :]
        env = os.environ if options["env"] is None else options["env"]
        is_plain = not (options["preexec_fn"] or options["pass_fds"] or options["shell"]) and _at_start(env) == _ours()
        *rest, has_session, group = rest
        is_plain = is_plain and (*rest, group) == (True, None, None, None, -1, -1)
        if not (is_plain and _is_module(args) and _is_here()):
            super()._execute_child(args, *given)  # type: ignore[misc]
            return
        standard = [fd if fd >= 0 else own for own, fd in enumerate((pipes[0], pipes[3], pipes[5]))]
        request = _request(args, options["cwd"] or os.getcwd(), env, has_session=has_session)
        self.pid = _server().fork(request, standard)
        self._child_created = True
        self._close_pipe_fds(*pipes)  # type: ignore[attr-defined]


def _is_module(args: Any) -> bool:
    return isinstance(args, list) and len(args) > 2 and args[:2] == [sys.executable, "-m"]


def _at_start(env: Any) -> dict[str, str]:
    """The part of an environment that takes effect when a program starts, by the linker, the C library and Python."""
    texts = {os.fsdecode(name): os.fsdecode(value) for name, value in env.items()}
    return {name: texts[name] for name in texts if name.startswith(_AT_START) and name != "PYTHONPATH"}


@functools.cache
def _ours() -> dict[str, str]:
    return _at_start(os.environ)


def _is_here() -> bool:
    """Whether this thread is where its process was."""
    return _namespaces("thread-self") == _namespaces(str(_server().process.pid))


def _namespaces(pid: str) -> list[str]:
    return [os.readlink(f"/proc/{pid}/ns/{name}") for name in _NAMESPACES]


def _request(argv: Sequence[Any], cwd: Any, env: Any, *, has_session: bool) -> bytes:
    request = {
        "argv": list(map(os.fspath, argv)),
        "cwd": os.fspath(cwd),
        "env": {os.fsdecode(name): os.fsdecode(value) for name, value in env.items()},
        "files": resource.getrlimit(resource.RLIMIT_NOFILE),
        "has_session": bool(has_session),
    }
    return json.dumps(request).encode()


class _Server:
    """The process that forks, as its parent has it."""

    def __init__(self) -> None:
        ctypes.CDLL(None).prctl(_SUBREAPER, 1, 0, 0, 0)  # or the children's parent is not this process
        self.socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        argv = [sys.executable, "-m", "tests.fakes.preloaded", str(theirs.fileno()), " " * _COMMAND_LINE_BYTES]
        env = {**os.environ, "GRPC_ENABLE_FORK_SUPPORT": "0"}
        with theirs:
            self.process = subprocess.Popen(argv, cwd=CHECKOUT, env=env, pass_fds=[theirs.fileno()])
        self._lock = threading.Lock()

    def fork(self, request: bytes, standard: list[int]) -> int:
        """Start it; its pid."""
        with self._lock, open("/proc/thread-self/ns/net", "rb") as net:
            socket.send_fds(self.socket, [request], [*standard, net.fileno()])
            return int(self.socket.recv(20))

    def stop(self) -> None:
        """End it. What it forked stays."""
        self.socket.close()
        self.process.wait()


_servers: list[_Server] = []
_lock = threading.Lock()


def _server() -> _Server:
    with _lock:
        if not _servers:
            _servers.append(_Server())
        return _servers[0]


def stop() -> None:
    """End the process that forks, if there is one. Idempotent."""
    with _lock:
        while _servers:
            _servers.pop().stop()


class _Request(NamedTuple):
    """What a child is to be; `descriptors` are its standard ones and that of its network namespace."""

    argv: list[str]
    cwd: str
    env: dict[str, str]
    files: tuple[int, int]
    has_session: bool
    descriptors: list[int]


def _forked(asked: socket.socket) -> _Request:
    """Fork for each request, and return it in the child, whose parent is ours; ends this process with its parent."""
    while True:
        text, descriptors, _, _ = socket.recv_fds(asked, _MOST_BYTES, _DESCRIPTORS)
        if not text:
            os._exit(0)
        read, write = os.pipe()
        if (between := os.fork()) == 0:
            between = os.getpid()
            if os.fork():
                os._exit(0)
            while os.getppid() == between:
                time.sleep(0.0005)
            request = _Request(**json.loads(text), descriptors=descriptors)
            if request.has_session:
                os.setsid()
            os.write(write, b"%d" % os.getpid())
            for fd in (read, write, asked.detach()):
                os.close(fd)
            return request
        os.waitpid(between, 0)  # now its child is our parent's
        asked.send(os.read(read, 20))
        for fd in (read, write, *descriptors):
            os.close(fd)


def _take_over(request: _Request) -> None:
    """Take over all that a new process would have."""
    *standard, net = request.descriptors
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(net, _NEW_NET):
        raise OSError(ctypes.get_errno(), "setns")
    for own, fd in enumerate(standard):
        os.dup2(fd, own)
    for fd in request.descriptors:
        os.close(fd)
    os.chdir(request.cwd)
    os.environ.clear()
    os.environ.update(request.env)
    sys.path[:1] = [request.cwd, *filter(None, request.env.get("PYTHONPATH", "").split(":"))]
    resource.setrlimit(resource.RLIMIT_NOFILE, request.files)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.stdin, sys.stdout, sys.stderr = (_stream(own) for own in range(3))
    sys.argv = request.argv[2:]
    _show(request.argv)


def _stream(own: int) -> Any:
    file = os.fdopen(own, "wb" if own else "rb", closefd=False)
    errors = "backslashreplace" if own == 2 else "strict"
    return io.TextIOWrapper(file, "utf-8", errors, line_buffering=own == 2 or file.isatty())


def _show(argv: list[str]) -> None:
    """In /proc/self/cmdline, where the forking process has room."""
    with open("/proc/self/stat", encoding="utf-8") as file:
        fields = file.read().rpartition(")")[2].split()
    begin, end = (int(fields[one - 2]) for one in (_ARG_START, _ARG_END))
    text = "".join(f"{word}\0" for word in argv).encode(errors="surrogateescape")[: end - begin - 1]
    ctypes.memset(begin, 0, end - begin)
    ctypes.memmove(begin, text, len(text))


def main(number: str) -> None:
    """Load the modules, then fork; a child returns when its module has ended."""
    for name in MODULES:
        importlib.import_module(name)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    gc.collect()
    gc.freeze()
    request = _forked(socket.socket(fileno=int(number)))
    _take_over(request)
    runpy.run_module(request.argv[2], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(sys.argv[1])
