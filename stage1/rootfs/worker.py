# SPDX-License-Identifier: Apache-2.0
"""Has untrusted bytes read by a confined Python process with our code (`confined`), and validates its result.

Called by `layers`, `merge` and, through `Worker`, the pull's documents and downloads, from threads. This is the only
place where the output of such a process becomes our values: the bytes may have compromised it.
"""

from __future__ import annotations

import json
import os
import select
import socket
import stat
import threading
from collections.abc import Callable, Sequence
from typing import Any, BinaryIO, NamedTuple

from stage1 import errors
from stage1.errors import NoSpace, PodError
from stage1.linux import feeding, files, process, sandbox, supervise
from stage1.linux.libc import Guard, failure
from stage1.linux.supervise import Child, Standard, Start
from stage1.rootfs.corrupt import Corrupt
from stage1.rootfs.limits import ELAPSED, Limits, OverLimit, refusal

KINDS: dict[str, type[errors.PodError]] = {
    "Corrupt": Corrupt,
    "OverLimit": OverLimit,
    "BadRequest": errors.BadRequest,
    "NotFound": errors.NotFound,
    "Unsupported": errors.Unsupported,
    "NoSpace": errors.NoSpace,
    "TimedOut": errors.TimedOut,
}
"""The errors that the process may return."""

MEMORY = "Memory"
"""Instead of one of these: its memory did not suffice."""

INTERNAL = "Internal"
"""Instead of one of these: it met an unexpected error, which its sentence describes."""

EVENT = "event"
"""The key of what a worker says before its answer, if the function yields."""

LENGTH_DIGITS = 12
"""Digits of each length on a worker's pipes: a question begins with the lengths of its arguments and its data, and an
answer with its own."""

DESCRIPTORS = 5
"""Of a request to the fork server: where a child's end is told, its standard input, output and errors, and a file that
says what it shall do."""

_SENTENCE_CHARACTERS = 1000
_KILLED = 128 + process.SIGKILL
_SEND_S, _END_S = 10.0, 2.0
_MOST_FILES = 64
MOST_FILE_BYTES = 2 << 40
"""mkfs.erofs begins with a file of that size, which has no blocks."""


class Question(NamedTuple):
    """`arguments` for the function `job` of `module`, about `what`; at most `answer_bytes` come back as JSON."""

    module: str
    arguments: tuple[str, ...]
    what: str
    timeout_s: float
    """Of processor time; `ask` takes `ELAPSED` times as long at most, and a worker's answer that long."""
    directory: str = ""
    """With `in`, which it may read, and `out`, where it may write; empty: it reaches no files."""
    disk_bytes: int = 0
    """Limits of the files in `out`."""
    answer_bytes: int = 65536
    network: bool = False
    """Whether it talks to registries; it then reads how names are resolved and whose certificates are believed."""
    stdin: int = -1
    """A descriptor that `ask` gives it as standard input; -1: /dev/null."""


class Asker(NamedTuple):
    """The limits, the caller's cancellation, and the server that forks the process; without, it is a new Python."""

    limits: Limits
    stop: Callable[[], bool] = supervise.never
    server: ForkServer | None = None


def ask(question: Question, asker: Asker) -> Any:
    """The result of the function, from a process of its own. The caller checks the types in it. Raises Corrupt,
    OverLimit, BadRequest, NotFound, Unsupported, NoSpace, TimedOut, Stopped, KernelError.
    """
    start = _start(question, asker)
    job = supervise.Job(start, question.stdin, ELAPSED * question.timeout_s, asker.stop, lambda: check_output(question))
    outcome: list[supervise.Ended] = []
    text = bytearray()
    pieces = supervise.output(job, outcome)
    try:
        for piece in pieces:
            text += piece
            if len(text) > question.answer_bytes:
                raise _too_long(question)
    finally:
        pieces.close()
    if outcome[0].code:
        raise _death(question, asker, ended=outcome[0])
    return _understood(question, asker, text=bytes(text))


class Feeding:
    """A process like that of `ask` whose standard input is given in pieces. Close it. It may have as many bytes in
    `out` as it was given, and `disk_bytes` more.
    """

    def __init__(self, question: Question, asker: Asker, pace: feeding.Pace) -> None:
        self._question, self._asker = question, asker
        start = _start(question, asker)
        self._program = feeding.Fed(start, pace, most_bytes=question.answer_bytes, check=self._check)

    def give(self, data: bytes) -> None:
        """Let it have `data`; in vain once it takes no more. Raises Stopped, TimedOut, OverLimit."""
        self._program.give(data)

    def copy(self, source: int, most: int) -> int:
        """Copy from a pipe (`feeding.Fed.copy`)."""
        return self._program.copy(source, most)

    def answer(self) -> Any:
        """The function's result for all that was given. Raises what `ask` raises."""
        ended = self._program.finish()
        if len(self._program.text) > self._question.answer_bytes:
            raise _too_long(self._question)
        if ended.code:
            raise _death(self._question, self._asker, ended=ended)
        return _understood(self._question, self._asker, text=bytes(self._program.text))

    def close(self) -> None:
        """End it. Once."""
        self._program.close()

    def _check(self) -> None:
        if self._asker.stop():
            raise supervise.Stopped("the pull was cancelled")
        check_output(self._question._replace(disk_bytes=self._question.disk_bytes + self._program.given))


class Worker:
    """A process that answers several questions, and is started by the first. Close it.

    `question` has what all questions have in common. Safe for threads: one asks at a time, and another may close it.
    """

    def __init__(self, question: Question, asker: Asker) -> None:
        self._question, self._asker = question, asker
        self._talk: supervise.Talk | None = None
        self._asking, self._starting, self.is_closed = threading.Lock(), threading.Lock(), False

    def start(self) -> supervise.Talk:
        """Start it, if it was not: it loads while the caller prepares the first question, and has a directory by then.
        Raises KernelError, Stopped after `close`.
        """
        with self._starting:
            if self.is_closed:
                raise supervise.Stopped("the pull was cancelled")
            if self._talk is None:
                if self._question.directory:
                    make_box(self._question.directory, uid=self._asker.limits.uid)
                self._talk = supervise.Talk(_start(self._question, self._asker))
            return self._talk

    def ask(self, question: Question, data: bytes, *, hear: Callable[[Any], object] | None = None) -> Any:
        """The result of `job(arguments, data)`; if it yields events, each is passed to `hear` at once, and is not
        checked. Raises what `ask` raises, and what `hear` raises; the worker can't be used after that.
        """
        with self._asking:
            talk = self.start()
            arguments = json.dumps(question.arguments).encode()
            head = b"".join(b"%0*d" % (LENGTH_DIGITS, len(part)) for part in (arguments, data))
            talk.send(head + arguments + data, timeout_s=question.timeout_s)
            while True:
                answer = _understood(question, self._asker, text=self._received(talk, question))
                if hear is None or not isinstance(answer, dict) or set(answer) != {EVENT}:
                    return answer
                hear(answer[EVENT])

    def _received(self, talk: supervise.Talk, question: Question) -> bytes:
        length = talk.receive(LENGTH_DIGITS, timeout_s=question.timeout_s)
        if length is not None and length.isdigit() and int(length) > question.answer_bytes:
            raise _too_long(question)
        text = talk.receive(int(length), timeout_s=question.timeout_s) if length and length.isdigit() else None
        if text is None:
            raise _death(question, self._asker, ended=talk.end())
        return text

    def close(self) -> None:
        """End the process; a question that another thread is asking fails. Idempotent. Blocks: it is given time."""
        with self._starting:
            self.is_closed = True
        if (talk := self._talk) is None:
            return
        if not self._asking.acquire(blocking=False):
            talk.kill()
            self._asking.acquire()
        try:
            talk.close()
        finally:
            self._asking.release()


def _too_long(question: Question) -> Corrupt:
    most = question.answer_bytes
    return Corrupt(f"the process that read {question.what} wrote more than {most} bytes; push it again")


def _box(question: Question, asker: Asker) -> sandbox.Box:
    own = (("in", sandbox.READ), ("out", sandbox.WRITE)) if question.directory else ()
    return sandbox.Box(
        asker.limits.memory_mib << 20,
        int(question.timeout_s),
        MOST_FILE_BYTES if question.directory else 0,
        question.directory or "/",
        (*sandbox.python_places(), *own, *(sandbox.NETWORK_PLACES if question.network else ())),
        uid=sandbox.usable_uid(asker.limits.uid),
        network=question.network,
        sockets=question.network,
    )


def _start(question: Question, asker: Asker) -> supervise.Start:
    call, box = (question.module, *question.arguments), _box(question, asker)
    if asker.server and not sandbox.means().lacks:
        return asker.server.job(call, box)
    return supervise.program([*sandbox.command(box, sandbox.means()), *sandbox.python(call)])


def check_output(question: Question) -> None:
    """Raises OverLimit when there is more in `out` than there may be."""
    if not question.directory:
        return
    used = count = 0
    with os.scandir(f"{question.directory}/out") as entries:
        for entry in entries:
            count += 1
            try:
                used += entry.stat(follow_symlinks=False).st_blocks * 512
            except FileNotFoundError:
                continue
            if count > _MOST_FILES or used > question.disk_bytes:
                raise OverLimit(f"the process that read {question.what} filled the disk with more than "
                                f"{question.disk_bytes} bytes and was killed; use another image")  # fmt: skip


def _death(question: Question, asker: Asker, *, ended: supervise.Ended) -> PodError:
    if ended.last.startswith("MemoryError"):
        return _too_much_memory(question, asker)
    if ended.code == _KILLED:
        return NoSpace(f"the process that read {question.what} was killed: it used {question.timeout_s:.0f} s of "
                       "processor time, or this host is out of memory; use another image")  # fmt: skip
    if ended.code > 128:
        return Corrupt(f"{question.what} can't be read: the process that tried ended by signal {ended.code - 128}; "
                       "push it again")  # fmt: skip
    return PodError(f"the process that was to read {question.what} could not start: {ended.last or ended.code}")


def _too_much_memory(question: Question, asker: Asker) -> PodError:
    cap = asker.limits.memory_mib
    return refusal(f"{question.what} needs more memory to be read than {cap} MiB", key="memory_mib", cap=cap)


def _understood(question: Question, asker: Asker, *, text: bytes) -> Any:
    try:
        answer = json.loads(text)
    except (ValueError, RecursionError):
        answer = None
    if isinstance(answer, dict) and set(answer) == {"ok"}:
        return answer["ok"]
    kind, sentence = (answer.get(key) for key in ("error", "sentence")) if isinstance(answer, dict) else (None, None)
    if kind == MEMORY:
        raise _too_much_memory(question, asker)
    if isinstance(kind, str) and kind in KINDS and isinstance(sentence, str):
        raise KINDS[kind](printable(sentence))
    if kind == INTERNAL and isinstance(sentence, str):
        raise Corrupt(f"{question.what} can't be read: internal error (a bug in clearpod): {printable(sentence)}; "
                      "report it with the name of the image")  # fmt: skip
    raise Corrupt(f"{question.what} can't be read: the process that tried gave no answer; push it again")


def printable(text: str) -> str:
    """`text` as part of a log line or an error: bounded, on one line."""
    return "".join(c if c.isprintable() else "?" for c in text[:_SENTENCE_CHARACTERS])


# The directories of a question, and what comes out of them.


def make_box(directory: str, *, uid: int, sources: Sequence[tuple[str, str]] = ()) -> None:
    """Make `directory` with `in` and `out`; in `in` are links to the files of `sources`, (path, name there).

    Undo: `remove_box`. Raises KernelError, NoSpace.
    """
    owner = sandbox.usable_uid(uid)
    with Guard("make", directory):
        for path in (directory, f"{directory}/in", f"{directory}/out"):
            os.mkdir(path)
            os.chmod(path, 0o755)
        os.chown(f"{directory}/out", owner, owner)
        for path, name in sources:
            os.link(path, f"{directory}/in/{name}")
            if not os.stat(path).st_mode & stat.S_IROTH:
                os.chmod(path, 0o644)  # made by an older clearpod; only root can enter the store


def remove_box(directory: str) -> None:
    """Undo `make_box`, with all that the process made there."""
    files.remove_tree(directory)


def adopt(directory: str, name: str, *, target: str, most_bytes: int) -> None:
    """Move the file `name` of `out`, whose process has ended, to `target`, root's own from then on.

    Raises Corrupt when it is no regular file, has other names, or is larger than `most_bytes`.
    """
    path = f"{directory}/out/{name}"
    with Guard("adopt", path):
        try:
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise Corrupt(f"an image's {name} was not made ({error.strerror}); pull it again") from None
        try:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1 or status.st_size > most_bytes:
                raise Corrupt(f"an image's {name} came out with {status.st_size} bytes, where at most {most_bytes} "
                              "are allowed, or not as a regular file; use another image")  # fmt: skip
            os.fchown(fd, 0, 0)
            os.fchmod(fd, 0o644)
        finally:
            os.close(fd)
        os.rename(path, target)


# Processes that a server forks.


class ForkServer:
    """A server that the first request starts, and the first one after `close` starts again. Close it."""

    def __init__(self, modules: Sequence[str]) -> None:
        self._modules = modules
        self._lock = threading.Lock()
        self._asked: socket.socket | None = None
        self._process: process.PidHandle | None = None

    def prepare(self) -> None:
        """Start it, if it was not: it loads the modules while the caller does something else. Raises KernelError."""
        with self._lock:
            self._running()

    def job(self, call: Sequence[str], box: sandbox.Box) -> Start:
        """How to start a child that calls the function `job` of the module `call[0]` with the rest of `call`."""
        document = {"job": call, "box": box._replace(places=()), "places": sandbox.existing(box)}
        data = json.dumps(document).encode()

        def start(standard: Standard) -> Child:
            with Guard("open", "a request"), open("/dev/null", "rb") as nothing, _file(data) as file:
                stdin = nothing.fileno() if standard.stdin is None else standard.stdin
                return self._start((stdin, standard.stdout, standard.stderr, file.fileno()))

        return start

    def _start(self, fds: Sequence[int]) -> Child:
        with Guard("socketpair", "the end of a confined process"):
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            with theirs, self._lock:
                self._send([theirs.fileno(), *fds])
        except BaseException:
            ours.close()
            raise
        return _Forked(ours)

    def _send(self, fds: Sequence[int]) -> None:
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


def _file(data: bytes) -> BinaryIO:
    """A file in memory with that."""
    file = open(os.memfd_create("request", os.MFD_CLOEXEC), "r+b", buffering=0)  # noqa: SIM115  the caller's
    file.write(data)
    return file


def _started(modules: Sequence[str]) -> tuple[socket.socket, process.PidHandle]:
    with Guard("socketpair", "the fork server"):
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.settimeout(_SEND_S)
    try:
        with theirs:
            argv = sandbox.python(tuple(modules), main="serve")
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
