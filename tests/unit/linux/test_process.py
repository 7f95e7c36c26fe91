# SPDX-License-Identifier: Apache-2.0
"""stage1.linux.process, flock, vsock and host: real processes, real locks."""

import os
import struct
import threading
import time
from pathlib import Path

import pytest

from stage1.errors import Exhausted, KernelError, NoSpace, NotFound, TimedOut, WrongState
from stage1.linux import host, process, vsock
from stage1.linux.flock import Lock
from tests.fakes.exhausted import no_descriptors
from tests.fakes.patience import PATIENCE


def sh(script: str, timeout_s: float = 10, **more: bytes) -> process.Result:
    return process.run(["/bin/sh", "-c", script], timeout_s=timeout_s, input=more.get("input"))


@pytest.mark.parametrize(
    ("script", "given", "expected"),
    [
        ("exit 0", None, (0, b"", b"")),
        ("echo out; echo err >&2; exit 7", None, (7, b"out\n", b"err\n")),
        ("kill -9 $$", None, (137, b"", b"")),
        ("cat", b"x" * 300_000, (0, b"x" * 300_000, b"")),
        ("cat", None, (0, b"", b"")),
        ("exec <&-; exit 3", b"y" * 300_000, (3, b"", b"")),
        ("printf 'a\\0b'", b"", (0, b"a\0b", b"")),
    ],
)
def test_run_returns_code_and_both_outputs(
    script: str, given: bytes | None, expected: tuple[int, bytes, bytes]
) -> None:
    result = process.run(["/bin/sh", "-c", script], timeout_s=10 * PATIENCE, input=given)
    assert tuple(result) == expected


def test_run_kills_the_whole_session_at_its_deadline(tmp_path: Path) -> None:
    with pytest.raises(TimedOut, match=r"/bin/sh .*within 0\.2 s"):
        sh(f"sleep 60 & echo $! >{tmp_path}/pid; wait", timeout_s=0.2)
    grandchild = int((tmp_path / "pid").read_text())
    for _ in range(50):
        if not is_running(grandchild):
            break
        time.sleep(0.02)
    assert not is_running(grandchild)


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_run_does_not_wait_for_a_grandchild_that_keeps_the_pipe() -> None:
    before = time.monotonic()
    result = sh(f"sleep {5 * PATIENCE} & echo $!")
    assert time.monotonic() - before < 4 * PATIENCE
    os.kill(int(result.stdout), 9)


def test_run_bounds_what_it_keeps_of_a_flood() -> None:
    result = sh("head -c 40000000 /dev/zero")
    assert (result.code, len(result.stdout)) == (0, 16 << 20)


@pytest.mark.parametrize(
    ("argv", "errno"),
    [(["/nonexistent/tool"], "ENOENT"), (["no-such-tool-here"], "ENOENT"), (["/"], "EACCES")],
)
def test_a_tool_that_can_not_start_is_named_and_nothing_leaks(argv: list[str], errno: str) -> None:
    before = os.listdir("/proc/self/fd")
    with pytest.raises(KernelError, match=f"{argv[0]}.*{errno}"):
        process.run(argv, timeout_s=5 * PATIENCE)
    assert os.listdir("/proc/self/fd") == before


def test_run_leaks_no_descriptor_and_no_zombie() -> None:
    before, children = os.listdir("/proc/self/fd"), Path("/proc/thread-self/children")
    born_before = children.read_text()
    for _ in range(20):
        sh("exit 1")
    assert os.listdir("/proc/self/fd") == before
    assert children.read_text() == born_before


def test_spawn_passes_what_was_requested_and_no_more(tmp_path: Path) -> None:
    hidden = os.open("/dev/null", os.O_RDONLY)
    out = os.open(tmp_path / "out", os.O_WRONLY | os.O_CREAT)
    script = "echo $ONLY$HOME; readlink /proc/self/fd/0; cut -d' ' -f6 /proc/$$/stat; echo $$; ls /proc/self/fd"
    argv, env = ["/bin/sh", "-c", script], {"ONLY": "this", "PATH": "/bin"}
    pid = process.spawn(argv, stdout=out, env=env)
    with process.PidHandle(pid, os.pidfd_open(pid)) as handle:
        assert handle.wait(10 * PATIENCE)
    for fd in (hidden, out):
        os.close(fd)
    lines = (tmp_path / "out").read_text().split()
    assert lines[:2] == ["this", "/dev/null"]
    assert lines[2] == lines[3] == str(pid)
    assert str(hidden) not in lines[4:]


def test_signals_that_python_ignores_are_at_their_defaults_in_a_child() -> None:
    mask = next(line for line in sh("cat /proc/self/status").stdout.splitlines() if line.startswith(b"SigIgn"))
    assert int(mask.split()[1], 16) & (1 << 12 | 1 << 24) == 0


def test_a_handle_knows_the_process_through_its_life() -> None:
    pid = process.spawn(["sleep", "60"])
    handle = process.open_process(pid, process.start_time(pid))
    assert handle is not None
    assert handle.alive()
    assert not handle.wait(0.01)
    handle.kill()
    assert handle.wait(10 * PATIENCE)
    assert handle.exit_code == 137
    assert not handle.alive()
    handle.kill()
    handle.close()
    handle.close()
    with pytest.raises(NotFound, match=str(pid)):
        process.start_time(pid)


def test_a_pid_that_was_given_to_another_process_is_not_ours() -> None:
    mine = process.start_time(os.getpid())
    assert process.open_process(os.getpid(), mine - 1) is None
    with process.open_process(os.getpid(), mine) or pytest.fail("it lives") as handle:
        assert handle.alive()


@pytest.mark.parametrize("pid", [0, -5, 2**22 + 1])
def test_an_impossible_pid_is_gone(pid: int) -> None:
    assert process.open_process(pid, 1) is None


def test_a_zombie_is_not_alive() -> None:
    pid = process.spawn(["true"])
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    with process.open_process(pid, process.start_time(pid)) or pytest.fail("it lives") as handle:
        assert not handle.alive()
        assert handle.exit_code == 0


def test_the_start_time_survives_an_odd_process_name(tmp_path: Path) -> None:
    odd = tmp_path / "a) S 1 ("
    odd.symlink_to("/bin/sleep")
    pid = process.spawn([str(odd), "60"])
    try:
        assert abs(process.start_time(pid) - process.start_time(os.getpid())) < 1_000_000
        assert process.start_time(pid) >= process.start_time(os.getpid())
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, 0)


def test_a_lock_keeps_others_out_and_is_free_afterwards(tmp_path: Path) -> None:
    path = str(tmp_path / "lock")
    with Lock(path), pytest.raises(TimedOut, match="locked by another"), Lock(path, limit_s=0.1):
        pass
    with Lock(path), pytest.raises(WrongState, match="locked by another"), Lock(path, wait=False):
        pass
    with Lock(path, wait=False):
        pass


def test_a_waiting_lock_is_taken_when_the_other_goes(tmp_path: Path) -> None:
    path, ordered = str(tmp_path / "lock"), []

    def second() -> None:
        with Lock(path):
            ordered.append("second")

    with Lock(path):
        thread = threading.Thread(target=second)
        thread.start()
        time.sleep(0.05)
        ordered.append("first")
    thread.join(10 * PATIENCE)
    assert ordered == ["first", "second"]


def test_a_lock_in_a_missing_directory_is_reported(tmp_path: Path) -> None:
    with pytest.raises(KernelError, match="ENOENT"), Lock(str(tmp_path / "no/lock")):
        pass


@pytest.mark.parametrize(
    ("seed", "taken", "cid"), [(0, set(), 3), (0, {3, 4}, 5), (2**24 - 1, {2**24 + 2}, 3), (2**70, {3}, 4)]
)
def test_a_context_id_is_a_free_one(seed: int, taken: set[int], cid: int) -> None:
    assert vsock.choose_cid(seed, lambda c: c not in taken) == cid


def test_context_ids_may_run_out() -> None:
    with pytest.raises(NoSpace, match="no free vsock"):
        vsock.choose_cid(7, lambda c: False)


def test_a_missing_vhost_device_is_named() -> None:
    if not host.device_error(vsock.DEVICE):
        pytest.skip("this host has /dev/vhost-vsock")
    with pytest.raises(KernelError, match="/dev/vhost-vsock"):
        vsock.choose_cid(0)


@pytest.mark.parametrize(
    ("cpuinfo", "expected"),
    [
        ("flags\t\t: fpu svm sse\n", "svm"),
        ("processor: 0\nflags\t: fpu vmx\nflags : svm\n", "vmx"),
        ("flags : fpu svm_lock vmxnot\nbugs: vmx\n", ""),
        ("", ""),
    ],
)
def test_hardware_virtualisation_is_read_from_the_flags(cpuinfo: str, expected: str) -> None:
    assert host.cpu_virtualization(host.cpu_flags(cpuinfo)) == expected


def test_tools_are_taken_from_path_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lkvm").write_text("")
    monkeypatch.setenv("PATH", f"relative::{tmp_path}")
    assert host.which("lkvm") == ""
    (tmp_path / "lkvm").chmod(0o755)
    assert host.which("lkvm") == str(tmp_path / "lkvm")
    (tmp_path / "dir").mkdir()
    assert host.which("dir") == ""


@pytest.mark.parametrize(("content", "expected"), [(b"\0libseccomp.so.2\0", True), (b"#!/bin/sh", False), (b"", False)])
def test_a_text_is_searched_in_a_file(tmp_path: Path, content: bytes, expected: bool) -> None:
    (tmp_path / "program").write_bytes(content)
    assert host.has_text(str(tmp_path / "program"), b"libseccomp.so") is expected
    assert not host.has_text(str(tmp_path / "absent"), b"libseccomp.so")


def _elf(*kinds: int) -> bytes:
    """A program with these program headers (elf(5)): 3 names the loader, 1 is loaded, 2 is for the loader."""
    head = struct.pack("<4sBBB9xHHIQQQIHHHHHH", b"\x7fELF", 2, 1, 1, 3, 62, 1, 0, 64, 0, 0, 64, 56, len(kinds), 0, 0, 0)
    return head + b"".join(struct.pack("<I52x", kind) for kind in kinds)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (_elf(1, 1), True),
        (_elf(2, 1), True),
        (_elf(6, 3, 1, 2), False),
        (_elf(), False),
        (_elf(1)[:60], False),
        (b"#!/bin/sh\nexec lkvm\n".ljust(100), False),
        (b"", False),
    ],
)
def test_a_static_program_is_recognised_by_its_headers(tmp_path: Path, content: bytes, expected: bool) -> None:
    (tmp_path / "program").write_bytes(content)
    assert host.is_static(str(tmp_path / "program")) is expected
    assert not host.is_static(str(tmp_path / "absent"))


def test_the_facts_of_this_host_can_be_gathered() -> None:
    facts = host.host_facts()
    assert facts.machine == os.uname().machine
    assert host.device_error("/dev/null") == ""
    assert "No such file" in host.device_error("/dev/absent")


def test_a_descriptor_that_we_were_given_open_is_not_passed_on() -> None:
    ours, other = os.pipe()
    os.set_inheritable(ours, True)
    try:
        script = f"readlink /proc/$$/fd/{ours} || echo closed"
        assert process.run(["sh", "-c", script], timeout_s=10 * PATIENCE).stdout == b"closed\n"
        assert os.get_inheritable(ours), "ours stays as it was"
    finally:
        os.close(ours)
        os.close(other)


def test_without_a_descriptor_nothing_is_started_or_kept() -> None:
    sleeping = process.spawn(["sleep", "1000"])
    before = os.listdir("/proc/self/fd")
    with no_descriptors(os.getpid()):
        for start in (lambda: sh("true"), lambda: process.pipes(2, "a test"), lambda: process.hold(sleeping)):
            with pytest.raises(Exhausted, match="Too many open files"):
                start()
    assert len(os.listdir("/proc/self/fd")) == len(before)
    with pytest.raises(ChildProcessError):
        os.waitpid(sleeping, 0)  # it was ended: nobody could have waited for it
