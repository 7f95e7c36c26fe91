# SPDX-License-Identifier: Apache-2.0
"""The confinement of who reads foreign bytes: its command line, and what a program that has been taken over can do."""

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from stage1.errors import TimedOut
from stage1.linux import sandbox, supervise
from stage1.linux.sandbox import Box, Means
from stage1.rootfs.worker import ForkServer
from tests.fakes import becomes
from tests.fakes.patience import PATIENCE

MEANS = Means("/setpriv", "/unshare", "/prlimit", landlock=True, filters=("/f", "/s"))
MIB = 1 << 20
Begin = Callable[[Sequence[str], Box], "supervise.Start"]

ATTACKS = """
import ctypes, json, os, socket, sys
results = {}
def attempt(name, what):
    try:
        results[name] = repr(what())
    except BaseException as error:
        results[name] = f"{type(error).__name__} {getattr(error, 'errno', '')}"
secret, pid = sys.argv[1:]
attempt("reads", lambda: open(secret).read())
attempt("reads passwd", lambda: open("/etc/passwd").read())
attempt("lists", lambda: os.listdir("/"))
attempt("writes in", lambda: open("in/x", "w"))
attempt("writes beside", lambda: open("x", "w"))
attempt("makes a device", lambda: os.mknod("out/null", 0o20666, os.makedev(1, 3)))
attempt("makes a fifo", lambda: os.mkfifo("out/fifo"))
attempt("proc", lambda: open("/proc/self/status").read())
attempt("sees", lambda: os.kill(int(pid), 0))
attempt("connects", lambda: socket.create_connection(("127.0.0.1", 22), 1))
attempt("interfaces", lambda: open("/proc/net/dev").read())
libc = ctypes.CDLL(None, use_errno=True)
def call(number, *arguments):
    return ctypes.get_errno() if libc.syscall(number, *arguments) < 0 else "done"
attempt("io_uring", lambda: call(425, 1, 0))
attempt("bpf", lambda: call(321, 0, 0, 0))
attempt("keys", lambda: call(250, 0, -3, 0))
attempt("user namespace", lambda: call(272, 0x10000000))
attempt("user namespace of a child", lambda: call(56, 0x10000000 | 17, 0, 0, 0, 0))
attempt("clone3", lambda: call(435, 0, 0))
attempt("a child", lambda: os.waitpid(os.posix_spawn("/bin/true", ["true"], {}), 0)[1])
attempt("becomes root", lambda: os.setuid(0))
attempt("mounts", lambda: ctypes.CDLL(None, use_errno=True).mount(b"none", b"out", b"tmpfs", 0, None))
attempt("memory", lambda: len(bytearray(600 << 20)))
attempt("out", lambda: open("out/x", "w").write("x"))
attempt("in", lambda: open("in/given").read())
attempt("stdin", lambda: sys.stdin.read())
attempt("ids", lambda: (os.getuid(), os.getgid(), os.getgroups(), os.getpid()))
attempt("new privileges", lambda: ctypes.CDLL(None).prctl(39, 0, 0, 0, 0))
print(json.dumps(results))
"""


def test_the_command_line_has_every_fence() -> None:
    line = " ".join(sandbox.command(Box(MIB, 7, 9, "/tmp", (("/tmp", sandbox.READ),), uid=5), MEANS))
    assert line.startswith(
        "/setpriv --pdeathsig=KILL -- /unshare --net --ipc --uts --pid --fork --kill-child=KILL --wd=/tmp"
    )
    for part in ("--as=1048576 --cpu=7 --fsize=9", "--nproc=", "--core=0", "--reuid=5 --regid=5 --clear-groups"):
        assert part in line
    for part in (
        "--no-new-privs",
        "--bounding-set=-all",
        "--landlock-access=fs",
        "path-beneath:read-file,read-dir:/tmp",
    ):
        assert part in line


@pytest.mark.parametrize(
    ("box", "means", "has", "lacks"),
    [
        (Box(MIB, 7, network=True), MEANS, "--pid", "--net"),
        (Box(MIB, 7), MEANS, "--seccomp-filter=/f", "/absent"),
        (Box(MIB, 7, sockets=True), MEANS, "--seccomp-filter=/s", "/f"),
        (Box(MIB, 7), MEANS._replace(filters=("", "")), "--no-new-privs", "--seccomp-filter"),
        (Box(MIB, 7, places=(("/absent", sandbox.READ),)), MEANS, "--landlock", "/absent"),
        (Box(MIB, 7), MEANS._replace(landlock=False), "--no-new-privs", "--landlock"),
        (Box(MIB, 7, directory="/tmp"), MEANS._replace(unshare=""), "env --chdir=/tmp", "unshare"),
    ],
)
def test_what_is_not_requested_or_missing_is_left_out(box: Box, means: Means, has: str, lacks: str) -> None:
    line = " ".join(sandbox.command(box, means))
    assert has in line and lacks not in line


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    for name in ("in", "out"):
        (tmp_path / name).mkdir()
    (tmp_path / "in" / "given").write_text("for you")
    tmp_path.chmod(0o755)
    (tmp_path / "secret").write_text("for nobody")
    return tmp_path


@pytest.fixture(params=["a new program", "a fork"])
def begin(request: pytest.FixtureRequest) -> Iterator[Begin]:
    """Both ways in which a confined program is started."""
    if request.param == "a new program":
        yield lambda argv, box: supervise.program([*sandbox.command(box, sandbox.means()), *argv])
    else:
        with contextlib.closing(ForkServer((becomes.__name__,))) as server:
            yield lambda argv, box: server.job((becomes.__name__, *argv), box)


def run(begin: Begin, directory: Path, program: str, *more: str, **changes: object) -> tuple[str, supervise.Ended]:
    """The output of a confined Python, and how it ended."""
    places = (("in", sandbox.READ), ("out", sandbox.WRITE), *sandbox.python_places())
    box = Box(512 * MIB, 20, MIB, str(directory), places, uid=65530)._replace(**changes)  # type: ignore[arg-type]
    start = begin([os.path.realpath(sys.executable), "-I", "-S", "-c", program, *more], box)
    output: list[supervise.Ended] = []
    text = b"".join(supervise.output(supervise.Job(start, -1, 60), output))
    return text.decode(), output[0]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize("uid", [65530, 0])
def test_a_program_that_was_taken_over_gets_nowhere(begin: Begin, directory: Path, uid: int) -> None:
    assert sandbox.means().lacks == ""
    os.chown(directory / "out", uid, uid)
    text, ended = run(begin, directory, ATTACKS, str(directory / "secret"), str(os.getpid()), uid=uid)
    assert ended.code == 0, ended
    result = json.loads(text)
    denied = ("reads", "reads passwd", "lists", "writes in", "writes beside", "proc", "interfaces")
    assert {name: result.pop(name) for name in denied} == dict.fromkeys(denied, "PermissionError 13")
    filtered = ("makes a device", "makes a fifo", "connects")
    assert {name: result.pop(name) for name in filtered} == dict.fromkeys(filtered, "PermissionError 1")
    calls = ("io_uring", "bpf", "keys", "user namespace", "user namespace of a child")
    assert {name: result.pop(name) for name in calls} == dict.fromkeys(calls, "1")
    assert result.pop("sees") == "ProcessLookupError 3"
    assert result.pop("becomes root") == ("PermissionError 1" if uid else "None")
    assert result.pop("memory") == "MemoryError "
    assert result == {
        "clone3": "38",
        "a child": "0",
        "mounts": "-1",
        "out": "1",
        "in": "'for you'",
        "stdin": "''",
        "ids": f"({uid}, {uid}, [], 1)",
        "new privileges": "1",
    }


def test_a_call_of_another_abi_ends_the_program(begin: Begin, directory: Path) -> None:
    _, ended = run(begin, directory, "import ctypes; ctypes.CDLL(None).syscall(0x40000000 | 39)")
    assert ended.code == 128 + 31


def test_where_sockets_are_allowed_there_is_no_network_still(begin: Begin, directory: Path) -> None:
    program = "import socket; print([name for _, name in socket.if_nameindex()])"
    assert run(begin, directory, program, sockets=True)[0] == "['lo']\n"


def test_a_file_may_not_grow_past_its_limit(begin: Begin, directory: Path) -> None:
    os.chmod(directory / "out", 0o777)
    program = "import signal; signal.signal(25, signal.SIG_IGN); open('out/x', 'wb', 0).write(bytes(3 << 20))"
    _, ended = run(begin, directory, program)
    assert os.path.getsize(directory / "out" / "x") <= MIB, ended


def test_it_is_killed_with_all_its_children_when_its_time_is_over(begin: Begin) -> None:
    start = begin(["/bin/sh", "-c", "setsid sleep 1234 & echo; wait"], Box(512 * MIB, 20, uid=65530))
    output: list[supervise.Ended] = []
    with pytest.raises(TimedOut):
        list(supervise.output(supervise.Job(start, -1, 1.0), output))
    assert output == []
    deadline = time.monotonic() + 10 * PATIENCE
    while [path for path in Path("/proc").glob("[0-9]*/cmdline") if _has(path, b"sleep\x001234")]:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _has(path: Path, text: bytes) -> bool:
    try:
        return text in path.read_bytes()
    except OSError:
        return False


@pytest.mark.parametrize("wants", ["stop", "read"])
def test_it_is_ended_when_it_is_not_needed(begin: Begin, wants: str) -> None:
    class Enough(Exception):
        pass

    def read() -> None:
        raise Enough

    start = begin(["/bin/sleep", "1000"], Box(512 * MIB, 20, uid=65530))
    job = supervise.Job(start, -1, 100, **({"stop": lambda: True} if wants == "stop" else {"check": read}))  # type: ignore[arg-type]
    with pytest.raises(supervise.Stopped if wants == "stop" else Enough):
        list(supervise.output(job, []))


def test_processor_time_is_limited_for_the_first_process_of_a_namespace(begin: Begin, directory: Path) -> None:
    _, ended = run(begin, directory, "while True: pass", cpu_s=1)
    assert ended.code == 128 + 9
