# SPDX-License-Identifier: Apache-2.0
"""The lab for real: up, commands in it, down, and what is left when its makers die. One boot serves most of it."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.patience import PATIENCE
from tests.lab import retry, start, state

pytestmark = pytest.mark.vm

ROOT = Path(__file__).parents[2]
LAB = str(ROOT / "scripts" / "lab")
UP_S, RUN_S = 200, 60


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A state directory of this module, so that a lab in build/lab is left alone."""
    if lacks := start.missing(start.PACKAGES):
        pytest.skip(f"the lab needs: apt-get install {' '.join(lacks)}")
    path = tmp_path_factory.mktemp("lab")
    yield path
    command(path, "down")


def command(place: Path, *argv: str, **more: object) -> "subprocess.CompletedProcess[bytes]":
    environ = {**os.environ, "CLEARPOD_LAB_DIR": str(place)}
    given = {"stdin": subprocess.DEVNULL} if "input" not in more else {}
    return subprocess.run([LAB, *argv], env=environ, capture_output=True, timeout=UP_S, **given, **more)


def processes(place: Path) -> dict[int, str]:
    """Those that run in the state directory: pid and name."""
    result = {}
    for cwd in Path("/proc").glob("[0-9]*/cwd"):
        try:
            if os.readlink(cwd) == str(place):
                result[int(cwd.parent.name)] = (cwd.parent / "comm").read_text().strip()
        except OSError:
            continue
    return result


def is_empty(place: Path, within_s: float = 20) -> bool:
    deadline = time.monotonic() + within_s * PATIENCE
    while processes(place) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not processes(place) and state.read(place).word == "down"


@pytest.fixture(scope="module")
def lab(place: Path) -> Path:
    """A lab that is up. The emulated machine breaks now and then while it boots, by an assertion of QEMU's."""
    for _ in range(retry.TRIES):
        done = command(place, "up", "--memory", "1024")
        if b"Assertion" not in done.stderr:
            break
        command(place, "down")
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout.startswith(b"lab: up after ")
    return place


def test_a_command_without_a_lab_names_the_command_that_starts_it(tmp_path: Path) -> None:
    done = command(tmp_path, "run", "true")
    assert (done.returncode, done.stdout) == (125, b"")
    assert done.stderr == b"lab: the lab is down; bring it up with: scripts/lab up\n"
    assert command(tmp_path, "down").returncode == 0
    assert command(tmp_path, "status").stdout == b"down\n"


@pytest.mark.parametrize(
    "argv, code, out, err",
    [
        (["true"], 0, b"", b""),
        (["false"], 1, b"", b""),
        (["sh", "-c", "echo out; echo err >&2; exit 77"], 77, b"out\n", b"err\n"),
        (["sh", "-c", "kill -TERM $$"], 143, b"", b""),
        (["-C", "/usr", "pwd"], 0, b"/usr\n", b""),
        (["pwd"], 0, f"{ROOT}\n".encode(), b""),
        (["--timeout", "1", "sleep", "60"], 124, b"", b"lab: sleep did not end within 1 s and was killed\n"),
        (["--", "printf", "%s", "-C"], 0, b"-C", b""),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_command_is_as_if_it_ran_here(lab: Path, argv: list[str], code: int, out: bytes, err: bytes) -> None:
    done = command(lab, "run", *argv, cwd=ROOT)
    assert (done.returncode, done.stdout, done.stderr) == (code, out, err)


def test_the_machine_has_what_pods_need(lab: Path) -> None:
    script = """
        for f in /dev/kvm /dev/vhost-vsock /dev/vhost-net /dev/net/tun; do [ -c $f ] || echo no $f; done
        grep -q -w svm /proc/cpuinfo || echo no svm
        [ "$(stat -f -c %T /tmp)$(stat -f -c %T /var/lib/clearpod)" = ext2/ext3ext2/ext3 ] || echo no disk
        touch /etc/scratch || echo the root is not writable
        touch CONTRIBUTING.md 2>/dev/null && echo the checkout is writable
        ip link add br0 type bridge && ip link add v0 type veth peer name v1 || echo no network
        modprobe -q squashfs || echo no modprobe
        cat /sys/fs/cgroup/cgroup.subtree_control"""
    done = command(lab, "run", "sh", "-c", script, cwd=ROOT)
    assert done.stdout == b"cpuset cpu io memory pids\n", done.stderr
    assert not os.path.exists("/etc/scratch")


def test_much_input_and_output_arrive_whole(lab: Path) -> None:
    data = os.urandom(1_000_000)
    assert command(lab, "run", "-i", "cat", input=data).stdout == data


def test_the_checkout_is_seen_as_it_changes_and_results_come_out(lab: Path, results: Path) -> None:
    probe = results / "probe"
    for text in ("first", "second, longer"):
        other = results / "beside"
        other.write_text(text)
        other.rename(probe)
        time.sleep(1.1)
        done = command(lab, "run", "sh", "-c", f"cat {probe} && cp {probe} {results}/copy")
        assert done.stdout.decode() == text == (results / "copy").read_text(), done.stderr


def test_a_command_ends_with_its_client_and_so_does_what_it_started(lab: Path) -> None:
    environ = {**os.environ, "CLEARPOD_LAB_DIR": str(lab)}
    script = "setsid sleep 6543 & sleep 6543 & echo ready; wait"
    client = subprocess.Popen([LAB, "run", "sh", "-c", script], env=environ, stdout=subprocess.PIPE)
    assert client.stdout
    assert client.stdout.readline() == b"ready\n"
    client.kill()
    client.communicate()
    time.sleep(0.5)
    assert command(lab, "run", "pgrep", "-f", "sleep 6543").stdout.split() == []


def test_up_again_is_fine_and_status_names_the_processes(lab: Path) -> None:
    assert command(lab, "up").stdout == b"lab: already up\n"
    word, *lines = command(lab, "status").stdout.decode().split("\n")
    assert word == "up"
    assert {int(line.split()[1]) for line in lines if line} == processes(lab).keys()


def test_a_lab_that_loses_its_machine_ends_and_the_command_reports_how(lab: Path) -> None:
    environ = {**os.environ, "CLEARPOD_LAB_DIR": str(lab)}
    with subprocess.Popen(
        [LAB, "run", "sh", "-c", "echo ready; sleep 600"], env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as client:
        assert client.stdout
        assert client.stdout.readline() == b"ready\n"
        os.kill(state.read(lab).record["children"]["machine"][0], signal.SIGKILL)
        _, output = client.communicate(timeout=RUN_S)
    assert client.returncode == 125
    assert b"machine ended with code -9" in output
    assert is_empty(lab)
    assert command(lab, "console").returncode == 0


def starting(place: Path) -> "subprocess.Popen[bytes]":
    """A `lab up` that is on its way: QEMU runs."""
    environ = {**os.environ, "CLEARPOD_LAB_DIR": str(place)}
    up = subprocess.Popen([LAB, "up"], env=environ, stderr=subprocess.PIPE)
    deadline = time.monotonic() + RUN_S
    while "machine" not in state.read(place).record.get("children", {}) and time.monotonic() < deadline:
        time.sleep(0.02)
    return up


@pytest.mark.parametrize("whom", ["up", "keeper", "down"])
def test_a_start_that_is_cut_short_leaves_nothing(place: Path, whom: str) -> None:
    up = starting(place)
    record = state.read(place).record
    assert {"root", "checkout", "cache", "results", "machine"} == record["children"].keys()
    if whom == "down":
        assert command(place, "down").returncode == 0
    else:
        os.kill({"up": up.pid, "keeper": record["pid"]}[whom], signal.SIGKILL)
    output = up.communicate(timeout=RUN_S)[1].decode()
    assert is_empty(place)
    assert up.returncode == (-9 if whom == "up" else 1), output
    assert (whom == "up") is ("the lab did not come up: it broke" not in output)


def test_a_machine_that_does_not_start_is_quoted(place: Path) -> None:
    done = command(place, "up", "--memory", "7")
    assert done.returncode == 1
    assert "not come up" in done.stderr.decode()
    assert "with code 1" in done.stderr.decode()
    assert is_empty(place)


@pytest.mark.parametrize(
    "argv, message",
    [
        (["up", "--path", "/no/such"], "no directory /no/such"),
        (["run"], "run what?"),
        (["console"], "no lab"),
    ],
)
def test_a_wrong_call_is_one_sentence(tmp_path: Path, argv: list[str], message: str) -> None:
    done = command(tmp_path, *argv)
    assert done.returncode in (1, 2)
    assert done.stderr.decode().startswith("lab: ")
    assert message in done.stderr.decode()
    assert done.stderr.count(b"\n") == 1
