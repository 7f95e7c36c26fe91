# SPDX-License-Identifier: Apache-2.0
"""`clearpod run` and its image: where it comes from, and what its config says about the process; and terminals.

The fixture `clearpod` checks after each test that nothing is left behind.
"""

import os
import pty
import signal
import termios
import time
from collections.abc import Iterator
from fcntl import ioctl
from pathlib import Path
from struct import pack

import pytest

from tests.fakes import sample
from tests.fakes.command import Command, finish
from tests.fakes.oci_layout import Entry, Layer, directory, file, tar
from tests.fakes.patience import PATIENCE
from tests.fakes.registry import Registry, skopeo

pytestmark = [pytest.mark.vm, pytest.mark.timeout(120)]

ACCOUNTS = [
    file("etc/passwd", b"root:x:0:0::/:\nweb:x:33:34:Web:/srv:/bin/sh\n"),
    file("etc/group", b"root:x:0:\nweb:x:34:\nmore:x:77:web\n"),
]


@pytest.fixture(scope="module")
def layers(guest_dir: Path) -> list[Layer]:
    """busybox and two accounts."""
    return [sample.busybox(guest_dir), Layer(tar([directory("etc/"), *ACCOUNTS]))]


ROOT, WEB = "uid=0(root) gid=0(root) groups=0(root)", "uid=33(web) gid=34(web) groups=34(web),77(more)"
SHOW = ["sh", "-c", 'id; pwd; echo "$A:$*"', "sh"]


@pytest.mark.parametrize(
    "config, argv, printed",
    [
        ({"Cmd": [*SHOW, "cmd"]}, (), (ROOT, "/", ":cmd")),
        ({"Cmd": ["echo", "cmd"], "User": "33"}, (*SHOW, "own"), (WEB, "/", ":own")),
        ({"Entrypoint": [*SHOW, "entry"], "Cmd": ["cmd"], "User": "web"}, (), (WEB, "/", ":entry cmd")),
        ({"Entrypoint": [*SHOW, "entry"], "Cmd": ["cmd"], "User": "4000:5000"}, ("own", "two"),
         ("uid=4000 gid=5000 groups=5000", "/", ":entry own two")),
        ({"Entrypoint": SHOW, "WorkingDir": "/srv/new"}, (), (ROOT, "/srv/new", ":")),
        ({"Cmd": SHOW, "Env": ["A=of the image", "PATH=/bin"], "User": "web:root"}, (),
         ("uid=33(web) gid=0(root) groups=0(root)", "/", "of the image:")),
    ],
)  # fmt: skip
def test_entrypoint_command_user_directory_and_variables(
    clearpod: Command, tmp_path: Path, layers: list[Layer], config: dict[str, object], argv: tuple[str, ...],
    printed: tuple[str, ...],
) -> None:  # fmt: skip
    image = sample.image(tmp_path / "image", layers, **config)
    ended = clearpod.run(image, *(["--", *argv] if argv else []))
    assert (ended.code, ended.out.decode().splitlines(), ended.err) == (0, list(printed), "")


def test_an_image_comes_from_an_archive_and_from_a_registry(
    clearpod: Command, tmp_path: Path, layers: list[Layer]
) -> None:
    image = sample.image(tmp_path / "image", layers, Cmd=["echo", "here"])
    archive = f"docker-archive:{tmp_path}/image.tar"
    skopeo(image, f"{archive}:t/here:1")
    assert clearpod.run(archive) == (0, b"here\n", "")
    with Registry(tmp_path / "registry") as registry:
        name = registry.push(image, "t/here:1")
        assert clearpod.run(name) == (0, b"here\n", "")


@pytest.fixture
def terminal() -> Iterator[tuple[int, int]]:
    """Both ends of a terminal of 77 columns and 33 lines: ours, the program's."""
    ours, theirs = pty.openpty()
    _resize(theirs, 77, 33)
    yield ours, theirs
    os.close(ours)
    os.close(theirs)


def test_a_terminal_has_its_size_is_raw_meanwhile_and_is_put_back(clearpod: Command, terminal: tuple[int, int]) -> None:
    ours, theirs = terminal
    before = termios.tcgetattr(theirs)
    script = "tty; read line; stty size; trap 'stty size; exit 5' WINCH; echo [$line]; while :; do sleep 0.1; done"
    process = clearpod.start("run", "-t", "--", "sh", "-c", script, stdin=theirs, stdout=theirs, start_new_session=True)
    _read_until(ours, "/dev/")
    assert not termios.tcgetattr(theirs)[3] & (termios.ECHO | termios.ICANON | termios.ISIG)
    os.write(ours, b"typed\r")
    assert "33 77\r\n[typed]\r\n" in _read_until(ours, "[typed]\r\n")
    _resize(theirs, 100, 40)
    process.send_signal(signal.SIGWINCH)
    assert "40 100" in _read_until(ours, "100")
    assert finish(process, limit_s=20)[::2] == (5, "")
    assert termios.tcgetattr(theirs) == before


def test_control_c_on_the_terminal_is_the_containers(clearpod: Command, terminal: tuple[int, int]) -> None:
    ours, theirs = terminal
    process = clearpod.start(
        "run", "-t", "--", "sh", "-c", "echo go; sleep 100", stdin=theirs, stdout=theirs, start_new_session=True
    )
    _read_until(ours, "go")
    os.write(ours, b"\x03")
    assert finish(process, limit_s=20)[::2] == (130, "")


def _resize(terminal: int, columns: int, lines: int) -> None:
    ioctl(terminal, termios.TIOCSWINSZ, pack("HHHH", lines, columns, 0, 0))


def _read_until(descriptor: int, text: str, limit_s: float = 30) -> str:
    result, deadline = "", time.monotonic() + limit_s * PATIENCE
    os.set_blocking(descriptor, False)
    while text not in result:
        assert time.monotonic() < deadline, result
        try:
            result += os.read(descriptor, 4096).decode()
        except BlockingIOError:
            time.sleep(0.02)
    return result


def test_accounts_that_are_fifos_do_not_block(clearpod: Command, tmp_path: Path, guest_dir: Path) -> None:
    # crun looked HOME up in /etc/passwd, by an open that waited for a writer.
    fifos = Layer(tar([directory("etc/"), Entry("etc/passwd", "p"), Entry("etc/group", "p")]))
    layers = [sample.busybox(guest_dir), fifos]
    image = sample.image(tmp_path / "image", layers, Cmd=["sh", "-c", "echo $HOME; test -p /etc/passwd && echo p"])
    assert clearpod.run(image) == (0, b"/\np\n", "")
