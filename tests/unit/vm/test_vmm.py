# SPDX-License-Identifier: Apache-2.0
"""ProcessVmm and VmProcess with a shell script in the VMM's place: it obeys or misbehaves as told."""

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from stage1.errors import KernelError, VmFailed
from stage1.linux import cgroup, namespace, process
from stage1.vm import qemu
from stage1.vm.spec import SerialLink, VmSpec
from stage1.vm.starter import ProcessVmm
from stage1.vm.vmm import VmProcess, find_unrecorded, is_vmm
from tests.fakes.patience import PATIENCE

Make = Callable[[str], VmSpec]


@pytest.fixture
def make(tmp_path: Path, jailer: str) -> Make:
    """A VmSpec whose VMM is the given shell script."""

    def spec(script: str) -> VmSpec:
        binary = tmp_path / "qemu"
        binary.write_text(f"#!/bin/sh\n{script}\n")
        binary.chmod(0o755)
        return VmSpec(
            "n", qemu.HYPERVISOR, str(binary), str(tmp_path), "/k", "/i", "/s", 64, 1, SerialLink(""), jailer=jailer
        )

    return spec


@pytest.fixture
def start(make: Make) -> Iterator[Callable[[str], VmProcess]]:
    """Starts a VMM that does not outlive the test."""
    started: list[VmProcess] = []

    def start(script: str) -> VmProcess:
        started.append(ProcessVmm().start(make(script)))
        return started[-1]

    yield start
    for vm in started:
        vm.kill()


@pytest.fixture
def running(start: Callable[[str], VmProcess]) -> VmProcess:
    """A VMM that has said something and stays."""
    vm = start("echo booting; echo oops >&2; exec sleep 60")
    while vm.console_tail() != "booting\noops":
        assert vm.alive()
        time.sleep(0.01)
    return vm


def test_it_begins_in_the_pods_netns_and_we_stay_in_ours(make: Make) -> None:
    home, path = os.readlink("/proc/thread-self/ns/net"), f"/run/netns/t-{os.urandom(6).hex()}"
    namespace.make_net(path)
    try:
        vm = ProcessVmm().start(make("exec sleep 60")._replace(netns=path))
        try:
            with namespace.inside_net(path):
                there = os.readlink("/proc/thread-self/ns/net")
            assert os.readlink(f"/proc/{vm.pid}/ns/net") == there != home
            assert os.readlink("/proc/thread-self/ns/net") == home
        finally:
            vm.kill()
    finally:
        namespace.remove_net(path)
    with pytest.raises(VmFailed, match=f"network namespace {path}: No such file"):
        ProcessVmm().start(make("exec sleep 60")._replace(netns=path))


def test_it_is_in_its_cgroup_and_killed_no_sooner_or_later_than_others(make: Make) -> None:
    path = cgroup.place("", f"clearpod-test-{os.urandom(6).hex()}")
    ours = Path("/proc/self/oom_score_adj")
    before = ours.read_text()
    try:
        ours.write_text("300")
        os.mkdir(path)
        vm = ProcessVmm().start(make("exec sleep 60")._replace(cgroups=(path,)))
        try:
            assert Path(path, "cgroup.procs").read_text() == f"{vm.pid}\n"
            assert Path(f"/proc/{vm.pid}/oom_score_adj").read_text() == "0\n"
        finally:
            vm.kill()
    finally:
        ours.write_text(before)
        cgroup.end(path)
    assert not os.path.exists(path)


def test_it_leaves_no_core_and_may_open_all_the_files_there_are(running: VmProcess) -> None:
    limits = Path(f"/proc/{running.pid}/limits").read_text().splitlines()
    core, files = (next(one for one in limits if one.startswith(f"Max {name}")).split() for name in ("core", "open"))
    assert core[4:6] == ["0", "0"] and files[3] == files[4]


def test_without_its_cgroup_there_is_no_vmm(make: Make) -> None:
    with pytest.raises(VmFailed, match="/proc/no/cgroup"):
        ProcessVmm().start(make("exec sleep 60")._replace(cgroups=("/proc/no/cgroup",)))


def test_it_runs_in_its_own_session_with_a_private_console(running: VmProcess, tmp_path: Path) -> None:
    assert running.alive()
    assert os.getsid(running.pid) == running.pid != os.getsid(0)
    assert os.readlink(f"/proc/{running.pid}/fd/0") == "/dev/null"
    assert running.console == str(tmp_path / "console.log")
    assert os.stat(running.console).st_mode & 0o777 == 0o600
    environment = Path(f"/proc/{running.pid}/environ").read_text()
    assert "HOME=/vmm" in environment.split("\0")


def test_killing_ends_it_and_again_is_fine(running: VmProcess) -> None:
    running.kill()
    assert not running.alive()
    assert running.wait(0)
    running.kill()
    assert not Path(f"/proc/{running.pid}").exists()


def test_another_process_can_adopt_it_from_json(running: VmProcess) -> None:
    record = json.loads(json.dumps({"v": 1, **running.to_json()}))
    adopted = VmProcess.from_json(record)
    assert adopted == running
    code = (
        "import json, sys\nfrom stage1.vm.vmm import VmProcess\n"
        "vm = VmProcess.from_json(json.loads(sys.argv[1]))\nprint(vm.alive(), vm.wait(0.01))\n"
        "vm.kill()\nprint(vm.alive())"
    )
    argv = ["/usr/bin/python3", "-c", code, json.dumps(record)]
    result = process.run(argv, timeout_s=20 * PATIENCE, env={"PYTHONPATH": os.getcwd()})
    assert (result.stdout, result.stderr) == (b"True False\nFalse\n", b"")
    assert running.wait(5 * PATIENCE)


def test_a_reused_pid_is_not_taken_for_the_vmm_and_not_killed(running: VmProcess) -> None:
    stale = running._replace(start_time=running.start_time - 1)
    assert not stale.alive()
    stale.kill()
    assert running.alive()


@pytest.mark.parametrize("record", [{}, {"pid": "1"}, {"pid": 1, "start_time": None, "console": "/x"}])
def test_a_damaged_record_is_refused(record: dict[str, object]) -> None:
    with pytest.raises(VmFailed, match="damaged"):
        VmProcess.from_json(record)


def test_a_death_at_the_start_carries_its_last_output(make: Make) -> None:
    with pytest.raises(VmFailed, match=r"code 3; .*:\n.*option \ufffd\[31m"):
        ProcessVmm(watch_s=20).start(make("printf 'bad option \\033[31m\\n' >&2; exit 3"))


def waits(vm: VmSpec) -> VmSpec:
    """It runs no guest until its monitor is told to."""
    return vm._replace(window_bytes=1 << 30, is_resumed=True)


def test_one_that_waits_for_a_guest_is_there_when_its_monitor_speaks_and_not_sooner(make: Make) -> None:
    with pytest.raises(VmFailed, match=r"code 5; .*:\n.*no memory"):
        ProcessVmm(watch_s=0).start(waits(make("sleep 0.4; echo no memory >&2; exit 5")))
    speaks = "import socket, time; peer = socket.socket(fileno=14).accept()[0]; peer.send(b'{}'); time.sleep(60)"
    ProcessVmm(watch_s=20 * PATIENCE).start(waits(make(f'exec /usr/bin/python3 -c "{speaks}"'))).kill()


def test_a_silent_death_at_the_start_is_reported_too(make: Make) -> None:
    with pytest.raises(VmFailed, match=r"code 4;.*\n.*nothing"):
        ProcessVmm(watch_s=20).start(make("exit 4"))


@pytest.mark.parametrize(("mode", "reason"), [(0o644, "EACCES"), (None, "ENOENT")])
def test_a_binary_that_can_not_start_is_named(make: Make, mode: int | None, reason: str) -> None:
    vm = make("exit 0")
    os.chmod(vm.binary, mode) if mode else os.unlink(vm.binary)
    before = os.listdir("/proc/self/fd")
    with pytest.raises(VmFailed) as caught:
        ProcessVmm().start(vm)
    assert vm.binary in str(caught.value)
    assert reason in str(caught.value)
    assert os.listdir("/proc/self/fd") == before


def test_a_missing_run_directory_is_named(make: Make) -> None:
    with pytest.raises(KernelError, match=r"/nonexistent/console\.log"):
        ProcessVmm().start(make("exit 0")._replace(run_dir="/nonexistent"))


def test_the_console_is_appended_to_and_its_end_survives_trimming(
    start: Callable[[str], VmProcess], tmp_path: Path
) -> None:
    (tmp_path / "console.log").write_text("earlier\n")
    vm = start("head -c 3000000 /dev/zero | tr '\\0' x; echo; echo last; exec sleep 60")
    while vm.console_tail(1) != "last":
        time.sleep(0.01)
    assert Path(vm.console).read_bytes().startswith(b"earlier\n")
    vm.trim_console()
    assert os.stat(vm.console).st_blocks * 512 <= (1 << 20) + 65536
    assert vm.console_tail(1) == "last"
    assert vm._replace(console="/nonexistent").console_tail() == ""
    vm._replace(console="/nonexistent").trim_console()


@pytest.mark.parametrize(
    ("binary", "expected"),
    [
        *((binary, True) for binary in ("/usr/bin/lkvm", "/opt/kvmtool", "/usr/bin/qemu-system-x86_64", "/g/agent")),
        *((binary, False) for binary in ("/usr/bin/less", "/usr/bin/qemu-img", "")),
    ],
)
def test_a_process_is_a_vmm_by_the_name_of_its_program(binary: str, expected: bool) -> None:
    assert is_vmm(binary) is expected


def test_a_vmm_without_a_record_is_recognised_by_its_command_line(tmp_path: Path) -> None:
    argv = ["/x/qemu-system-fake", "-c", "read line", f"path={tmp_path}/pod/agent.sock"]
    with subprocess.Popen(argv, executable="/bin/sh", stdin=subprocess.PIPE) as vmm:
        with subprocess.Popen(["less", *argv[1:]], executable="/bin/sh", stdin=subprocess.PIPE):
            result = find_unrecorded(f"{tmp_path}/pod")
            assert result is not None and (result.pid, result.alive()) == (vmm.pid, True)
            assert find_unrecorded(f"{tmp_path}/po") is None
        result.kill()
    assert find_unrecorded(f"{tmp_path}/pod") is None
