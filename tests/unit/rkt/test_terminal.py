# SPDX-License-Identifier: Apache-2.0
"""Standard streams joined with a process in the guest, whose broker is a socket of this test."""

import socket

import pytest

from stage1.guest import frame, messages
from stage1.guest.messages import Exec, Exited, Stdio
from stage1.guest.session import Session
from stage1.rkt import terminal

OUT, EXEC = 101, 100
HELLO = frame.pack(frame.HELLO, stream=EXEC)
REPLY = frame.pack(frame.REPLY, messages.encode(messages.Reply()), stream=1)
OUTPUT = frame.pack(frame.DATA, b"words\n", stream=OUT)
END = frame.pack(frame.EVENT, messages.encode_event(Exited("a", EXEC, 42)))


@pytest.mark.parametrize("with_the_reply", [b"", OUTPUT, OUTPUT + END], ids=["nothing", "output", "all"])
@pytest.mark.timeout(10)
def test_what_comes_together_with_the_reply_is_not_waited_for(
    capfd: pytest.CaptureFixture[str], *, with_the_reply: bytes
) -> None:
    ours, theirs = socket.socketpair()
    theirs.sendall(HELLO + REPLY + with_the_reply)
    with theirs, Session(ours) as session:
        session.call(Exec("a", EXEC), 1)
        theirs.sendall((OUTPUT + END)[len(with_the_reply) :])
        joined = terminal.Joined("a", EXEC, Stdio(0, OUT))
        assert terminal.join(session, joined) == 42
    assert capfd.readouterr().out == "words\n"
