# SPDX-License-Identifier: Apache-2.0
"""The contract of a VM's DAX window for its client, against both implementations: the fake and the real shim."""

import os
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.fakes.patience import PATIENCE
from tests.fakes.window import FakeWindow

CHECKOUT = Path(__file__).parents[2]
SHIM = CHECKOUT / "images" / "lkvm-shim"
MIB = 1 << 20
PAGE = 4096
SIZE = 2 * MIB

ByteAt = Callable[[int], int]
"""The byte that a guest sees at an offset."""


def fake(root: Path, _: pytest.FixtureRequest) -> Iterator[ByteAt]:
    """The one of tests/fakes."""
    with FakeWindow(f"{root}/dax.sock", SIZE) as window:
        yield lambda offset: window.at(offset, 1)[0]


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shim's own sources, in a program that is no VMM."""
    if not shutil.which("gcc"):
        pytest.skip("needs gcc: apt install gcc")
    server = tmp_path_factory.mktemp("window") / "server"
    sources = [SHIM / name for name in ("plan.c", "region.c", "window.c")]
    argv = ["gcc", "-std=c17", "-D_GNU_SOURCE", "-pthread", f"-I{SHIM}", *sources]
    argv += [Path(__file__).with_name("window_server.c"), "-o", server]
    subprocess.run(argv, check=True, timeout=60)
    return server


def shim(root: Path, request: pytest.FixtureRequest) -> Iterator[ByteAt]:
    """The window of the shim."""
    server_program: Path = request.getfixturevalue("program")
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([server_program, f"{root}/dax.sock", str(SIZE)], text=True, **pipes) as server:
        assert server.stdin and server.stdout and server.stdout.readline() == "ready\n"

        def byte_at(offset: int) -> int:
            assert server.stdin and server.stdout
            server.stdin.write(f"{offset}\n")
            server.stdin.flush()
            return int(server.stdout.readline())

        yield byte_at
        server.stdin.close()
        assert server.wait(10 * PATIENCE) == 0


@pytest.fixture(params=[fake, shim])
def byte_at(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ByteAt]:
    """A window of 2 MiB at tmp_path/dax.sock."""
    yield from request.param(tmp_path, request)


def ask(root: Path, text: str, *files: Path) -> str:
    """The answer to one request on a connection of its own."""
    fds = [os.open(file, os.O_RDONLY) for file in files]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as peer:
            peer.connect(f"{root}/dax.sock")
            socket.send_fds(peer, [text.encode()], fds)
            return peer.recv(500).decode()
    finally:
        for fd in fds:
            os.close(fd)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """A file of two pages."""
    path = tmp_path / "image"
    path.write_bytes(b"a" * PAGE + b"b" * PAGE)
    return path


def test_an_image_is_seen_from_map_to_unmap(byte_at: ByteAt, tmp_path: Path, image: Path) -> None:
    assert ask(tmp_path, "map 8192 8192", image) == "ok"
    assert [byte_at(offset) for offset in (8191, 8192, 12288, 16384)] == [0, ord("a"), ord("b"), 0]
    image.unlink()
    assert byte_at(8192) == ord("a")
    assert ask(tmp_path, "unmap 8192 8192") == "ok"
    assert byte_at(8192) == 0


def test_an_unmap_takes_all_that_is_wholly_there_and_nothing_there_is_fine(
    byte_at: ByteAt, tmp_path: Path, image: Path
) -> None:
    assert ask(tmp_path, f"unmap 0 {SIZE}") == "ok"
    for offset in (0, 8192, SIZE - 8192):
        assert ask(tmp_path, f"map {offset} 8192", image) == "ok"
    assert ask(tmp_path, "unmap 0 16384") == "ok"
    assert [byte_at(offset) for offset in (0, 8192, SIZE - 8192)] == [0, 0, ord("a")]
    assert ask(tmp_path, f"unmap 0 {SIZE}") == "ok"
    assert byte_at(SIZE - 8192) == 0


@pytest.mark.parametrize(
    ("request_", "has_file", "answer"),
    [
        ("map 0 8192", True, "another image is there already"),
        ("map 4096 8192", True, "another image is there already"),
        ("unmap 4096 4096", False, "an image lies only in part there"),
        (f"map {SIZE} 8192", True, "outside of the"),
        (f"map {SIZE - 4096} 8192", True, "outside of the"),
        ("map 512 8192", True, "not whole pages"),
        ("map 8192 100", True, "not whole pages"),
        ("map 8192 4096", True, "the image has 8192 bytes where 4096 were promised"),
        ("map 8192 8192", False, "no descriptor"),
        ("unmap 8192 8192", True, "a descriptor nobody asked for"),
        ("steal 8192 8192", False, "not a request"),
        ("map 8192", True, "not a request"),
    ],
)
def test_what_makes_no_sense_is_refused_and_changes_nothing(
    byte_at: ByteAt, tmp_path: Path, image: Path, request_: str, has_file: bool, answer: str
) -> None:
    assert ask(tmp_path, "map 0 8192", image) == "ok"
    assert answer in ask(tmp_path, request_, *([image] if has_file else []))
    assert [byte_at(offset) for offset in (0, 8192)] == [ord("a"), 0]
