# SPDX-License-Identifier: Apache-2.0
"""Confined processes that are forked: they have no more than those that are started, and end when they should."""

import json
import os
import resource
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from stage1.errors import Exhausted
from stage1.linux import process, sandbox, supervise
from stage1.linux.sandbox import Box
from stage1.rootfs import worker as workers
from stage1.rootfs.corrupt import Corrupt
from stage1.rootfs.limits import Limits
from stage1.rootfs.worker import Asker, ForkServer, Question, Worker
from tests.fakes import becomes
from tests.fakes.patience import PATIENCE
from tests.fakes.processes import children

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can confine a process by itself")
BOX = Box(512 << 20, 20, uid=65530)
LIMITS = json.dumps(Limits())
NAMES = Question("cri.image.manifest", ("names", "x", "amd64", LIMITS, ""), "the documents of x", 60.0)
SETS = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")


@pytest.fixture
def server() -> Iterator[ForkServer]:
    server = ForkServer(("cri.image.manifest", becomes.__name__))
    yield server
    server.close()


def worker(server: ForkServer | None) -> Worker:
    return Worker(Question("cri.image.manifest", (), "the documents of x", 60.0), Asker(Limits(), server=server))


def pid_of(server: ForkServer) -> int:
    assert server._process is not None
    return server._process.pid


def until_waiting(pid: int) -> None:
    """For its next request: a server closes what it gave to a child after that has answered."""
    until = time.monotonic() + 10 * PATIENCE
    while Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != "S":
        assert time.monotonic() < until, "it does not wait"
        time.sleep(0.01)


def until_gone(pid: int) -> None:
    """An orphan that has ended is a zombie for as long as the machine's first process likes."""
    try:
        held = process.PidHandle(pid, os.pidfd_open(pid))
    except ProcessLookupError:
        return
    with held:
        assert held.wait(10 * PATIENCE)


@pytest.mark.parametrize("uid", [65530, 0])
def test_a_fork_that_runs_our_code_has_what_a_new_python_has(
    server: ForkServer, uid: int, request: pytest.FixtureRequest
) -> None:
    seen = []
    for one in (server, None):
        asker, before = Asker(Limits(uid=uid), server=one), children(os.getpid())
        asking = Worker(Question("cri.image.manifest", (), "the documents of x", 60.0), asker)
        request.addfinalizer(asking.close)
        assert asking.ask(NAMES, b'{"manifests": []}') == {}
        [pid] = children(pid_of(server)) if one else [last_child(os.getpid(), but=before)]
        status = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        kept = ("Uid", "Gid", "Groups", "NoNewPrivs", "Seccomp", "Seccomp_filters", *SETS)
        limits = Path(f"/proc/{pid}/limits").read_text()
        spaces = [os.readlink(f"/proc/{pid}/ns/{kind}") for kind in ("net", "ipc", "uts", "pid")]
        assert not {*spaces} & {os.readlink(f"/proc/self/ns/{kind}") for kind in ("net", "ipc", "uts", "pid")}
        numbers = sorted(map(int, os.listdir(f"/proc/{pid}/fd")))
        seen.append(([status[key].strip() for key in kept], status["NSpid"].split()[-1], limits, numbers))
        asking.close()
    assert seen[0] == seen[1]
    assert seen[0][0][6:] == ["0" * 16] * len(SETS) and seen[0][3] == [0, 1, 2]


def last_child(pid: int, *, but: list[int]) -> int:
    """The last process of the chain that `pid` has started, beside its children `but`."""
    while more := [one for one in children(pid) if one not in but]:
        pid = more[0]
    return pid


def test_children_are_side_by_side_and_apart(server: ForkServer) -> None:
    first, second = worker(server), worker(server)
    assert second.ask(NAMES, b'{"manifests": []}') == first.ask(NAMES, b'{"manifests": []}') == {}
    assert len(children(pid_of(server))) == 2
    with pytest.raises(Corrupt):
        first.ask(NAMES, b"[")
    first.close()
    assert second.ask(NAMES, b'{"manifests": []}') == {}
    second.close()
    assert children(pid_of(server)) == set()


def file_kib(pid: int) -> int:
    """What is in memory of the files that a process has mapped."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("RssFile:")))


def test_a_server_that_waits_lets_go_of_the_code_that_it_ran_and_goes_on(server: ForkServer) -> None:
    one = worker(server)
    assert one.ask(NAMES, b'{"manifests": []}') == {}
    pid, full, until = pid_of(server), file_kib(pid_of(server)), time.monotonic() + 10 * PATIENCE
    while file_kib(pid) > full / 2:
        assert time.monotonic() < until, f"it keeps {file_kib(pid)} of {full} KiB"
        time.sleep(0.1)
    assert one.ask(NAMES, b'{"manifests": []}') == {}
    one.close()
    two = worker(server)
    assert two.ask(NAMES, b'{"manifests": []}') == {}
    two.close()


def test_an_abandoned_child_is_killed(server: ForkServer) -> None:
    job = supervise.Job(server.job((becomes.__name__, "/bin/sh", "-c", "echo; exec sleep 1000"), BOX), -1, 60)
    pieces = supervise.output(job, [])
    next(pieces)
    [pid] = children(pid_of(server))
    pieces.close()
    until_gone(pid)


def test_children_end_with_the_server_and_the_next_question_starts_another(server: ForkServer) -> None:
    asking = worker(server)
    assert asking.ask(NAMES, b'{"manifests": []}') == {}
    [pid] = children(pid_of(server))
    os.kill(pid_of(server), signal.SIGKILL)
    until_gone(pid)
    with pytest.raises(Exception, match="was killed"):
        asking.ask(NAMES, b'{"manifests": []}')
    asking.close()
    other = worker(server)
    assert other.ask(NAMES, b'{"manifests": []}') == {}
    other.close()


def test_the_server_ends_when_who_asks_is_killed(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    pid = os.posix_spawn("/proc/self/exe", ["python3", "-c", ASKING], os.environ, file_actions=[
        (os.POSIX_SPAWN_DUP2, writing, 1),
    ])  # fmt: skip
    os.close(writing)
    with open(reading) as file:
        pids = list(map(int, file.readline().split()))
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    for one in pids:
        until_gone(one)


ASKING = """
import os, sys, time
from stage1.linux import sandbox, supervise
from stage1.rootfs.worker import ForkServer
server = ForkServer(("tests.fakes.becomes",))
box = sandbox.Box(512 << 20, 20, uid=65530)
child = server.job(("tests.fakes.becomes", "/bin/sleep", "1000"), box)(supervise.Standard(None, 2, 2))
def children(): return open(f"/proc/{server._process.pid}/task/{server._process.pid}/children").read().split()
while not children(): time.sleep(0.01)
print(server._process.pid, *children(), flush=True)
time.sleep(1000)
"""


@pytest.mark.parametrize("free", [3, 5])
def test_a_server_without_descriptors_reports_it_and_continues(server: ForkServer, free: int) -> None:
    first = worker(server)
    assert first.ask(NAMES, b'{"manifests": []}') == {}
    until_waiting(pid_of(server))
    known = len(os.listdir(f"/proc/{pid_of(server)}/fd"))
    limits = resource.prlimit(pid_of(server), resource.RLIMIT_NOFILE)
    resource.prlimit(pid_of(server), resource.RLIMIT_NOFILE, (known + free, limits[1]))
    job = supervise.Job(server.job((becomes.__name__, "/bin/true"), BOX), -1, 60)
    with pytest.raises(Exhausted):
        list(supervise.output(job, []))
    resource.prlimit(pid_of(server), resource.RLIMIT_NOFILE, limits)
    assert len(children(pid_of(server))) == 1
    ended: list[supervise.Ended] = []
    assert list(supervise.output(job, ended)) == [] and ended[0].code == 0
    first.close()


def test_a_failed_fork_is_reported() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        theirs.send(b"!11")
        forked = workers._Forked(ours)
        with pytest.raises(Exhausted):
            forked.wait(1)
        forked.close()


def test_a_fence_that_can_not_be_made_leaves_nothing_running(server: ForkServer) -> None:
    gone = sandbox.Box(512 << 20, 20, directory="/nonexistent", uid=65530)
    ended: list[supervise.Ended] = []
    assert list(supervise.output(supervise.Job(server.job(("cri.image.manifest", "x"), gone), -1, 60), ended)) == []
    assert ended[0].code == 125 and "/nonexistent" in ended[0].last


def test_threads_may_ask_at_once(server: ForkServer) -> None:
    answers = []

    def ask() -> None:
        one = worker(server)
        answers.append(one.ask(NAMES, b'{"manifests": []}'))
        one.close()

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [{}] * 8


def test_where_this_host_lacks_a_fence_a_new_python_is_started(
    server: ForkServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    lacking = sandbox.means()._replace(lacks="no Landlock", landlock=False)
    monkeypatch.setattr(sandbox, "means", lambda: lacking)
    assert workers._start(NAMES, Asker(Limits(), server=server)) is not None
    assert server._process is None
