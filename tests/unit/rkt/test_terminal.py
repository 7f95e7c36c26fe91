# SPDX-License-Identifier: Apache-2.0
"""Standard streams joined with a process in the guest, whose broker is a socket of this test."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from stage1.guest import codec, frame, messages
from stage1.guest.client import Client
from stage1.guest.messages import Exec, Exited, Stdio
from stage1.rkt import terminal

OUT, EXEC = 101, 100
HELLO = frame.pack(frame.HELLO, stream=EXEC)
REPLY = frame.pack(frame.REPLY, codec.encode(messages.Reply()), stream=1)
OUTPUT = frame.pack(frame.DATA, b"words\n", stream=OUT)
END = frame.pack(frame.EVENT, codec.encode_event(Exited("a", EXEC, 42)))


@pytest.mark.parametrize(
    "code, text, expected",
    [
        (1, b"exec: Exec format error\n", 126),
        (1, b"exec: Permission denied\r\n", 126),
        (1, b"exec: No such file or directory\n", 127),
        (1, b"exec container process `/bin/x`: Exec format error\n", 126),
        (1, b"exec container process (missing dynamic library?) `/x`: No such file or directory\n", 127),
        (126, b"exec container process `/bin/x`: Exec format error\n", 126),
        (126, b"exec container process `/bin/x`: Too many levels of symbolic links\n", 126),
        (126, b"exec container process (missing dynamic library?) `/x`: No such file or directory\n", 127),
        (126, b"sh: x: Permission denied\n", 126),
        (2, b"exec: Exec format error\n", 2),
        (1, b"exec: Exec format error\nmore\n", 1),
        (1, b"sh: exec: Exec format error\n", 1),
        (1, b"exec: \xff\n", 1),
        (0, b"", 0),
    ],
)
def test_what_the_kernel_could_not_execute_has_the_code_of_shells(code: int, text: bytes, expected: int) -> None:
    assert terminal.exec_code(code, text) == expected


@contextmanager
def unread() -> Iterator[None]:
    """Standard output is a pipe that nobody reads."""
    reader, writer = os.pipe()
    os.close(reader)
    kept = os.dup(1)
    os.dup2(writer, 1)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        for fd in (kept, writer):
            os.close(fd)


@pytest.mark.timeout(10)
def test_a_follower_without_reader_ends_and_the_container_continues() -> None:
    ours, theirs = socket.socketpair()
    theirs.sendall(HELLO + OUTPUT)
    with theirs, Client(ours) as client, unread():
        assert terminal.join(client, terminal.Joined("a", 0, Stdio(0, OUT))) == 0
        theirs.setblocking(False)
        with pytest.raises(BlockingIOError):
            theirs.recv(1 << 16)


@pytest.mark.timeout(10)
def test_the_guest_is_notified_once_that_there_is_no_reader() -> None:
    ours, theirs = socket.socketpair()
    theirs.sendall(HELLO + REPLY + OUTPUT + OUTPUT + END)
    with theirs, Client(ours) as client, unread():
        client.call(Exec("a", EXEC), 1)
        assert terminal.join(client, terminal.Joined("a", EXEC, Stdio(0, OUT))) == 42
        told = frame.pack(frame.DATA, stream=OUT, flags=frame.END)
        sent = theirs.recv(1 << 16)
        assert sent.endswith(told) and sent.count(told) == 1


@pytest.mark.parametrize("with_the_reply", [b"", OUTPUT, OUTPUT + END], ids=["nothing", "output", "all"])
@pytest.mark.timeout(10)
def test_what_comes_together_with_the_reply_is_not_waited_for(
    capfd: pytest.CaptureFixture[str], *, with_the_reply: bytes
) -> None:
    ours, theirs = socket.socketpair()
    theirs.sendall(HELLO + REPLY + with_the_reply)
    with theirs, Client(ours) as client:
        client.call(Exec("a", EXEC), 1)
        theirs.sendall((OUTPUT + END)[len(with_the_reply) :])
        joined = terminal.Joined("a", EXEC, Stdio(0, OUT))
        assert terminal.join(client, joined) == 42
    assert capfd.readouterr().out == "words\n"
