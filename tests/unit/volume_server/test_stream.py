# SPDX-License-Identifier: Apache-2.0
"""Builds the volume server, and is a hostile guest to it."""

import contextlib
import errno
import os
import socket
import struct
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.c_program import marks
from tests.fakes.patience import PATIENCE
from tests.unit.volume_server.conftest import SERVER

pytestmark = marks("make", "musl-gcc", "gcc")

LIMIT_BYTES = 80 * 1024
INIT, LOOKUP, GETATTR, UNLINK, OPEN, READ, WRITE, FORGET, READDIR = 26, 1, 3, 10, 14, 15, 16, 2, 28
ROOT = 1


def test_it_builds_without_warnings_and_is_small_and_needs_no_library() -> None:
    SERVER.make("all")
    assert (SERVER.out / "volume-server").stat().st_size <= LIMIT_BYTES
    assert "INTERP" not in SERVER.headers("volume-server")


class Guest:
    """Our end of the stream of a server, with one volume attached."""

    def __init__(self, stream: socket.socket) -> None:
        self.stream = stream

    def send(self, volume: int, body: bytes) -> None:
        """One message."""
        self.stream.sendall(struct.pack("<II", 8 + len(body), volume) + body)

    def receive(self) -> bytes:
        """The body of the next one."""
        header = self.stream.recv(8, socket.MSG_WAITALL)
        assert len(header) == 8, "the server has ended the stream"
        return self.stream.recv(struct.unpack("<I", header[:4])[0] - 8, socket.MSG_WAITALL)

    def attach(self, path: str, volume: int = 1) -> int:
        """The error."""
        self.send(0, struct.pack("<HHI", 1, 0, volume) + path.encode())
        return -struct.unpack("<HHIiI", self.receive())[3]

    def ask(self, opcode: int, arguments: bytes = b"", node: int = ROOT, volume: int = 1) -> tuple[int, bytes]:
        """The error of the answer, and the rest of it."""
        self.send(volume, struct.pack("<IIQQIIII", 40 + len(arguments), opcode, 7, node, 0, 0, 0, 0) + arguments)
        answer = self.receive()
        length, error, unique = struct.unpack("<IiQ", answer[:16])
        assert (length, unique) == (len(answer), 7)
        return -error, answer[16:]


@contextlib.contextmanager
def _served(root: Path) -> Iterator[tuple[Guest, "subprocess.Popen[str]"]]:
    SERVER.make("checked")
    ours, theirs = socket.socketpair()
    ours.settimeout(30)
    argv = [f"{SERVER.out}/volume-server-checked", str(theirs.fileno()), root]
    with ours, subprocess.Popen(argv, pass_fds=[theirs.fileno()], stderr=subprocess.PIPE, text=True) as server:
        theirs.close()
        try:
            yield Guest(ours), server
        finally:
            ours.close()
            server.wait(30)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """With a volume, what is beside it, and links out of it."""
    (tmp_path / "root/one").mkdir(parents=True)
    (tmp_path / "root/one/file").write_bytes(b"content")
    (tmp_path / "root/link").symlink_to(tmp_path)
    os.mkfifo(tmp_path / "root/fifo")
    return tmp_path / "root"


@pytest.mark.parametrize(
    ("path", "error"),
    [
        ("one", 0),
        ("one/file", 0),
        ("fifo", 0),
        ("../root", errno.EXDEV),
        ("/etc", errno.EXDEV),
        ("one/../..", errno.EXDEV),
        ("link", errno.ELOOP),
        ("absent", errno.ENOENT),
        ("", errno.ENOENT),
    ],
)
def test_volumes_are_below_the_root(root: Path, path: str, error: int) -> None:
    with _served(root) as (guest, _):
        assert guest.attach(path) == error


def test_numbers_of_volumes_are_bounded_and_taken_once(root: Path) -> None:
    with _served(root) as (guest, server):
        assert [guest.attach("one", volume) for volume in (0, 4096, 1, 1)] == [22, 22, 0, errno.EEXIST]
        guest.send(0, struct.pack("<HHI", 2, 0, 1))
        assert guest.receive()[8:12] == bytes(4)
        assert guest.ask(GETATTR, bytes(16))[0] == errno.ENODEV
        assert guest.attach("one") == 0
        guest.stream.close()
        assert server.wait(30) == 0


NAMES = [b"..", b".", b"a/b", b"/", b"", b"../../etc/passwd"]


def test_no_name_number_or_offset_leads_anywhere_else(root: Path) -> None:
    with _served(root) as (guest, _):
        assert guest.attach("one") == 0
        assert [guest.ask(LOOKUP, name + b"\0")[0] for name in NAMES] == [errno.EINVAL] * len(NAMES)
        for node in (0, 2, 2 << 32 | 1, (1 << 64) - 1, 1 << 32 | 99):
            assert guest.ask(LOOKUP, b"file\0", node=node)[0] in (errno.ESTALE, errno.ENOTDIR)
        for handle in (0, 1, 1 << 32, 1 << 32 | 1, (1 << 64) - 1):
            assert guest.ask(READ, struct.pack("<QQIIQII", handle, 0, 9, 0, 0, 0, 0))[0] == errno.EBADF
        _, entry = guest.ask(LOOKUP, b"file\0")
        node = struct.unpack("<Q", entry[:8])[0]
        _error, opened = guest.ask(OPEN, struct.pack("<II", os.O_RDWR, 0), node=node)
        handle = struct.unpack("<Q", opened[:8])[0]
        assert guest.ask(READ, struct.pack("<QQIIQII", handle, 3, 9, 0, 0, 0, 0)) == (0, b"tent")
        for offset, size in (((1 << 64) - 1, 1), (1 << 63, 1), (0, (256 << 10) + 1), (0, (1 << 32) - 1)):
            assert guest.ask(READ, struct.pack("<QQIIQII", handle, offset, size, 0, 0, 0, 0))[0] == errno.EINVAL
        assert guest.ask(READDIR, struct.pack("<QQIIQII", handle, 0, 99, 0, 0, 0, 0))[0] == errno.EBADF
        guest.send(1, struct.pack("<IIQQIIIIQ", 48, FORGET, 0, node, 0, 0, 0, 0, 1 << 63))
        until = time.monotonic() + 10 * PATIENCE  # threads of the server take messages, and one may overtake the other
        while guest.ask(GETATTR, bytes(16), node=node)[0] != errno.ESTALE:
            assert time.monotonic() < until, "a node that was forgotten is still there"
        assert guest.ask(READ, struct.pack("<QQIIQII", handle, 0, 9, 0, 0, 0, 0))[1] == b"content"


@pytest.mark.parametrize("name", [b"fi", b"file\0\0\0", b""])
def test_a_lookup_with_the_length_of_another_name_is_answered(root: Path, name: bytes) -> None:
    """As the guest's kernel sends it when a thread renames what another one looks up."""
    with _served(root) as (guest, _):
        assert guest.attach("one") == 0
        assert guest.ask(LOOKUP, name)[0] == errno.ESTALE
        assert guest.ask(LOOKUP, b"file\0")[0] == 0


def _request(opcode: int, arguments: bytes, length: int | None = None) -> bytes:
    return struct.pack("<IIQQIIII", length or 40 + len(arguments), opcode, 7, ROOT, 0, 0, 0, 0) + arguments


@pytest.mark.parametrize(
    "message",
    [
        struct.pack("<II", 7, 1),
        struct.pack("<II", (1 << 32) - 1, 1),
        struct.pack("<II", 8 + 4096 + (256 << 10) + 1, 1),
        struct.pack("<II", 12, 1) + b"half",
        struct.pack("<II", 48, 1) + _request(GETATTR, b"")[:39] + b"\0",
        *(
            struct.pack("<II", 8 + len(body), 1) + body
            for body in (
                _request(UNLINK, b"no end"),
                _request(UNLINK, b"two\0ends\0"),
                _request(GETATTR, bytes(15)),
                _request(GETATTR, bytes(16), length=41),
                _request(WRITE, struct.pack("<QQIIQII", 0, 0, 100, 0, 0, 0, 0) + b"few"),
                _request(INIT, b"short"),
                _request(42, struct.pack("<II", 1 << 31, 0)),
            )
        ),
        struct.pack("<IIHHI", 16, 0, 9, 0, 1),
        struct.pack("<IIHHI", 16, 0, 1, 1, 1),
        struct.pack("<IIHHI", 19, 0, 1, 0, 2) + b"a\0b",
    ],
)
def test_a_malformed_message_ends_the_stream(root: Path, message: bytes) -> None:
    with _served(root) as (guest, server):
        assert guest.attach("one") == 0
        guest.stream.sendall(message)
        guest.stream.shutdown(socket.SHUT_WR)
        assert guest.stream.recv(100) == b""
        assert server.wait(30) == 2
        assert server.stderr
        assert server.stderr.read().count("\n") == 1


@pytest.mark.parametrize("arguments", [[], ["1"], ["x", "/"], ["1", "/absent"], ["99", "/"], ["1", "/", "2", "3"]])
def test_it_says_why_it_cannot_begin(arguments: list[str]) -> None:
    SERVER.make("all")
    done = subprocess.run([SERVER.out / "volume-server", *arguments], capture_output=True, text=True, timeout=30)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
