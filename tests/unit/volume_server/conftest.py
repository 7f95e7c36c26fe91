# SPDX-License-Identifier: Apache-2.0
"""Directories of this machine that the volume server serves, mounted by FUSE where only the tests see it."""

import errno
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.fakes.c_program import CProgram

SERVER = CProgram("volume-server")
BELIEVED_S = 0.1
"""For how long the guest believes what it knows; entry.h."""


class Served(NamedTuple):
    """`host` is a directory of ours, `guest` the same by FUSE, and `other` the same once more, as of another pod."""

    host: Path
    guest: Path
    other: Path
    pid: int

    def run(self, *argv: str) -> str:
        """Run a program in the directory `guest`, as a program in a container has it; what it writes."""
        root = Path(f"/proc/{self.pid}/root")
        command = ["nsenter", f"--mount=/proc/{self.pid}/ns/mnt", f"--wdns=/{self.guest.relative_to(root)}", *argv]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=120)
        assert done.returncode == 0, done.stdout[-4000:]
        return done.stdout


@pytest.fixture(scope="session")
def built_pump() -> Path:
    """The pump; the server is built too, with ASan and UBSan."""
    if os.geteuid() or not os.path.exists("/dev/fuse"):
        pytest.skip("needs root and /dev/fuse")
    SERVER.make("checked")
    return SERVER.out / "pump"


@pytest.fixture(scope="module")
def serving(built_pump: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A directory; the server must end well."""
    top = tmp_path_factory.mktemp("volumes")
    host, guest, other = top / "sources/one", top / "guest", top / "other"
    for path in (host, guest, other):
        path.mkdir(parents=True)
    argv = [built_pump, SERVER.out / "volume-server-checked", host.parent, f"one:{guest}", f"one:{other}"]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as pump:
        assert pump.stdout and pump.stdin
        assert pump.stdout.readline() == "mounted\n"
        inside = Path(f"/proc/{pump.pid}/root")
        try:
            yield Served(host, inside / guest.relative_to("/"), inside / other.relative_to("/"), pump.pid)
        finally:
            pump.stdin.close()
            code = pump.wait(20)
    assert code == 0


@pytest.fixture
def served(serving: Served) -> Served:
    """A new directory in there."""
    name = f"{len(os.listdir(serving.host))}"
    (serving.host / name).mkdir()
    return Served(serving.host / name, serving.guest / name, serving.other / name, serving.pid)


def as_user(uid: int, act: Callable[[], None], *, where: Path) -> None:
    """Call `act` in a process of that user's, whose directory is `where`."""
    child = os.fork()
    if child == 0:
        try:
            os.chdir(where)
            os.setgroups([])
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
            act()
            os._exit(0)
        except OSError as error:
            os._exit(error.errno or 255)
        finally:
            os._exit(255)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    assert code == 0, errno.errorcode.get(code, code)
