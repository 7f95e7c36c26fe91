# SPDX-License-Identifier: Apache-2.0
"""`clearpod run` as a user has it: what goes in, what comes out, how it ends. Each test starts real VMs.

The fixture `clearpod` checks after each test that nothing is left behind.
"""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.fakes.command import Command, finish
from tests.fakes.patience import PATIENCE

pytestmark = [pytest.mark.vm, pytest.mark.timeout(120)]

TRAP = "trap 'echo {0}; exit 9' {0}; echo ready; while :; do sleep 0.1; done"


def test_the_sample_runs_on_a_kernel_of_its_own_and_its_exit_code_comes_back(clearpod: Command) -> None:
    source = "/sys/devices/system/clocksource/clocksource0/current_clocksource"
    ended = clearpod.run("--", "sh", "-c", f"uname -r; id; head -1 /proc/meminfo; cat {source}; echo no >&2; exit 7")
    kernel, identity, memory, clock = ended.out.decode().splitlines()
    assert (ended.code, ended.err) == (7, "no\n")
    assert clock in ("tsc", "tsc-early", "kvm-clock"), "ticks, which a busy host lets it lose"
    assert kernel != os.uname().release and kernel.endswith("-clearpod")
    assert identity == "uid=0(root) gid=0(root) groups=0(root)"
    assert memory.startswith("MemTotal:") and 90_000 < int(memory.split()[1]) < 131_072


def test_the_guests_clock_is_right(clearpod: Command) -> None:
    process = clearpod.start("run", "-i", "--", "sh", "-c", "echo go; read word; date +%s", stdin=subprocess.PIPE)
    _read_until(process, b"go\n")
    assert process.stdin is not None
    asked = time.time()
    process.stdin.write(b"now\n")
    process.stdin.flush()
    output = int(_read_until(process, b"\n"))
    slack_s = 2 * PATIENCE  # the host's greeting, which sets the clock, has a way too
    assert asked - 1 - slack_s < output < time.time() + slack_s
    finish(process)


def test_memory_cpus_variables_and_the_working_directory_are_as_requested(clearpod: Command) -> None:
    options = ("--vm-memory", "300m", "--cpus", "2", "-e", "A=1 2", "-e", "PATH=/bin:/x", "-w", "/made/for/this")
    ended = clearpod.run(*options, "--", "sh", "-c", 'nproc; head -1 /proc/meminfo; pwd; echo "$A:$PATH"')
    cpus, memory, *others = ended.out.decode().splitlines()
    assert (ended.code, cpus, others, ended.err) == (0, "2", ["/made/for/this", "1 2:/bin:/x"], "")
    assert 260_000 < int(memory.split()[1]) < 307_200


def test_the_timeline_names_the_phases_on_standard_error_and_without_i_there_is_no_input(clearpod: Command) -> None:
    ended = clearpod.run("--timeline", "--", "wc", "-c", feed=b"not for you")
    assert (ended.code, ended.out.split()) == (0, [b"0"])
    phases = ("image is in the store", "sent its hello", "container created", "container started", "exited")
    places = [ended.err.find(phase) for phase in phases]
    assert places == sorted(places) and places[0] > 0, ended.err
    # A program may write before the guest has answered that it was started.
    assert places[2] < ended.err.find("first output") < places[-1], ended.err
    assert "kernel to PID 1" in ended.err


@pytest.mark.parametrize("from_file", [False, True])
def test_a_megabyte_goes_in_and_comes_out_byte_for_byte(clearpod: Command, tmp_path: Path, from_file: bool) -> None:
    data = os.urandom(1 << 20)
    arguments = ("-i", "--", "sh", "-c", "cat; exit 3")
    if from_file:
        (tmp_path / "in").write_bytes(data)
        with (tmp_path / "in").open("rb") as source, (tmp_path / "out").open("wb") as target:
            code = clearpod.run(*arguments, stdin=source, stdout=target).code
        result = (tmp_path / "out").read_bytes()
    else:
        code, result, _ = clearpod.run(*arguments, feed=data)
    assert code == 3
    assert result == data


def test_a_slow_reader_gets_everything_and_loses_nothing(clearpod: Command) -> None:
    size = 256 << 10
    script = f"yes 0123456789abcde | head -c {size}; echo done >&2"
    process = clearpod.start("run", "--", "sh", "-c", script)
    assert process.stdout is not None
    result = b""
    while piece := os.read(process.stdout.fileno(), 20_000):
        result += piece
        time.sleep(0.05)
    assert finish(process).code == 0
    assert result == b"0123456789abcde\n" * (size // 16)


def test_a_reader_that_sleeps_does_not_keep_signals_away(clearpod: Command) -> None:
    process = clearpod.start("run", "--", "sh", "-c", "echo go >&2; yes")
    _read_until(process, b"go\n", stream=process.stderr)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGTERM):  # two equal ones may come as one
        time.sleep(0.5)  # the first ends the program, but what it wrote before waits to be read
        process.send_signal(number)
    # A slow guest has not filled all buffers when the program ends, and then the second one is enough.
    assert process.wait(20 * PATIENCE) in (137, 143, -signal.SIGTERM)
    finish(process)


def test_a_reader_that_went_away_ends_the_pod(clearpod: Command) -> None:
    process = clearpod.start("run", "--", "yes")
    assert process.stdout is not None
    os.read(process.stdout.fileno(), 10)
    process.stdout.close()
    process.stdout = None
    assert finish(process, limit_s=20)[::2] == (141, "")


@pytest.mark.parametrize("closed", ["1", "2", "0 1 2"])
def test_closed_descriptors_are_like_dev_null(clearpod: Command, closed: str) -> None:
    shell = " ".join(f"{number}>&-" for number in closed.split())
    argv = ["bash", "-c", f'exec "$@" {shell}', "-", *clearpod.argv("run", "-i", "--", "sh", "-c", "echo out; exit 4")]
    ended = finish(subprocess.Popen(argv, env=clearpod.env, stdin=subprocess.PIPE, stdout=-1, stderr=-1), feed=b"")
    assert (ended.code, ended.out, ended.err) == (4, b"" if "1" in closed else b"out\n", "")


def test_a_full_disk_under_the_output_is_reported_once(clearpod: Command) -> None:
    with open("/dev/full", "wb") as full:
        ended = clearpod.run("--", "sh", "-c", "echo out; sleep 100", stdout=full)
    assert (ended.code, ended.err.count("\n")) == (125, 1)
    assert "standard output: No space left on device" in ended.err


@pytest.mark.parametrize("number, code", [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)])
def test_a_signal_ends_a_program_that_does_not_catch_it(clearpod: Command, number: int, code: int) -> None:
    process = clearpod.start("run", "--", "sh", "-c", "echo ready; exec sleep 100")
    _read_until(process, b"ready\n")
    process.send_signal(number)
    assert finish(process, limit_s=20) == (code, b"", "")


def test_a_signal_reaches_a_program_that_catches_it(clearpod: Command) -> None:
    process = clearpod.start("run", "--", "sh", "-c", TRAP.format("USR1"))
    _read_until(process, b"ready\n")
    process.send_signal(signal.SIGUSR1)
    assert finish(process, limit_s=20) == (9, b"USR1\n", "")


def test_the_third_request_to_end_is_not_passed_on(clearpod: Command) -> None:
    script = "trap 'echo no' TERM INT; echo ready; while :; do sleep 0.1; done"
    process = clearpod.start("run", "--", "sh", "-c", script)
    _read_until(process, b"ready\n")
    for number in (signal.SIGTERM, signal.SIGINT):
        process.send_signal(number)
        _read_until(process, b"no\n")
    process.send_signal(signal.SIGTERM)
    ended = finish(process, limit_s=20)
    assert ended.code == 137
    assert "three times" in ended.err


@pytest.mark.parametrize(("vmms", "after_s"), [(0, 0.0), (1, 0.0), (1, 0.4)])
def test_a_signal_during_the_boot_undoes_it(clearpod: Command, vmms: int, after_s: float) -> None:
    process = clearpod.start("run", "--", "sleep", "100")
    deadline = time.monotonic() + 20 * PATIENCE
    while not any((clearpod.root / "run/run/pods").iterdir()) or len(clearpod.host_state.vmms()) < vmms:
        assert process.poll() is None and time.monotonic() < deadline
    time.sleep(after_s)
    process.send_signal(signal.SIGTERM)
    assert finish(process, limit_s=20) == (143, b"", "")


def test_kill_9_takes_the_vm_along_and_the_next_run_sweeps(clearpod: Command) -> None:
    process = clearpod.start("run", "--", "sh", "-c", "echo ready; sleep 100")
    _read_until(process, b"ready\n")
    assert clearpod.host_state.vmms()
    process.kill()
    finish(process)
    deadline = time.monotonic() + 5 * PATIENCE
    while clearpod.host_state.vmms() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert clearpod.host_state.vmms() == []
    assert os.listdir(clearpod.root / "run/run/pods") != []
    assert clearpod.run("--", "echo", "next")[:2] == (0, b"next\n")


def test_the_end_of_a_vm_is_distinguished_from_that_of_a_program(clearpod: Command) -> None:
    process = clearpod.start("run", "--", "sh", "-c", "echo ready; sleep 100")
    _read_until(process, b"ready\n")
    for pid in clearpod.host_state.vmms():
        os.kill(pid, signal.SIGKILL)
    ended = finish(process, limit_s=20)
    assert (ended.code, ended.err.count("\n")) == (137, 1)
    assert "virtual machine" in ended.err


def test_a_program_that_uses_up_its_memory_is_reported(clearpod: Command) -> None:
    ended = clearpod.run("-m", "64m", "--", "sh", "-c", "x=a; while :; do x=$x$x; done")
    assert (ended.code, ended.err.count("\n")) == (137, 1), ended.err
    assert "memory was used" in ended.err


def _read_until(process: "subprocess.Popen[bytes]", text: bytes, stream: object = None, limit_s: float = 30) -> bytes:
    """What it wrote until `text` came."""
    source = stream or process.stdout
    descriptor, result = source.fileno(), b""  # type: ignore[attr-defined]
    deadline = time.monotonic() + limit_s * PATIENCE
    while text not in result:
        piece = os.read(descriptor, 4096)
        assert piece and time.monotonic() < deadline, (result, finish(process, limit_s=5))
        result += piece
    return result
