# SPDX-License-Identifier: Apache-2.0
"""The real rkt with the real stage1 image: the exit codes for shells and units, and the messages."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.fakes import aci
from tests.rkt.real import LIMIT_S, RealRkt, removed, sh, wait_until

pytestmark = [
    pytest.mark.rkt,
    pytest.mark.vm,
    pytest.mark.skipif(os.geteuid() != 0, reason="rkt mounts overlays, so it needs root"),
]
STAYS = "echo up; while :; do sleep 0.1; done"
COMMANDS = {
    "/bin/missing": 127,
    "missing": 127,
    "/bin/lost": 127,
    "/bin/sh/x": 127,
    f"/bin/{'x' * 300}": 127,
    "/bin": 126,
    "/bin/plain": 126,
    "/bin/bad": 126,
    "/bin/loop": 126,
}


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An app image with commands that can't be run."""
    place = tmp_path_factory.mktemp("odd")
    root = aci.root(place / "root")
    files = {
        "plain": (b"#!/bin/sh\n", 0o644),
        "bad": (b"\x7fELF" + bytes(200), 0o755),
        "lost": (b"#!/no/such\n", 0o755),
    }
    for name, (content, mode) in files.items():
        (root / "bin" / name).write_bytes(content)
        (root / "bin" / name).chmod(mode)
    (root / "bin/loop").symlink_to("loop")
    return aci.pack(root, place / "odd.aci", name="example.com/odd")


@pytest.mark.parametrize("how", ["stop", signal.SIGTERM, signal.SIGINT, signal.SIGHUP], ids=str)
def test_a_pod_that_is_stopped_has_the_code_of_its_app(rkt: RealRkt, odd: Path, *, how: "str | signal.Signals") -> None:
    pod = rkt.run(odd, *sh(f"trap 'exit 17' TERM; {STAYS}"))
    pod.wait_for("up\n")
    if isinstance(how, signal.Signals):
        pod.process.send_signal(how)
    else:
        assert rkt.call("stop", pod.uuid).code == 0
    ended = pod.finish()
    assert ended.code == 17 and "code 17" in ended.err
    assert pod.status()["app-odd"] == "17"
    removed(rkt, pod)


def test_an_app_that_had_to_be_killed_has_failed_too(rkt: RealRkt, odd: Path) -> None:
    pod = rkt.run(odd, *sh(f"trap '' TERM; {STAYS}"))
    pod.wait_for("up\n")
    assert rkt.call("stop", pod.uuid).code == 0
    assert pod.finish().code == 137 and pod.status()["app-odd"] == "137"
    removed(rkt, pod)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_that_can_not_be_run_is_noticed_before_another_app_runs(
    rkt: RealRkt, odd: Path, *, command: str
) -> None:
    pod = rkt.run(
        odd, "--name=first", "--exec=/bin/echo", "--", "ran", "---", odd, f"--exec={command}", "--name=second"
    )
    done = pod.finish()
    assert (done.code, done.out) == (COMMANDS[command], ""), done.err
    (output,) = [line for line in done.err.splitlines() if command in line]
    assert "app 'second'" in output
    removed(rkt, pod)


def test_what_only_the_guest_can_know_is_reported_once_and_whole(rkt: RealRkt, odd: Path, tmp_path: Path) -> None:
    name = "tool" * 50
    (tmp_path / name).write_text("#!/bin/sh\n")
    volume = ["--volume=data,kind=host,source=" + str(tmp_path), "--mount=volume=data,target=/data"]
    pod = rkt.run(*volume, odd, f"--exec=/data/{name}")
    done = pod.finish()
    assert done.code == 126 and done.err.count(name) == 1, done.err
    removed(rkt, pod)


BAD = {
    "lost": (b"#!/no/such\n", 126),
    "text": (b"echo\n", 126),
    "one": (b"#!/bin/sh\nexit 1\n", 1),
    "dir/": (b"", 126),
    "loop": (b"", 126),
    "x" * 300: (b"", 127),
    "text/x": (b"", 127),
}


@pytest.mark.parametrize("name", BAD)
def test_what_can_not_be_executed_in_a_volume_has_the_code_of_shells(
    rkt: RealRkt, odd: Path, tmp_path: Path, *, name: str
) -> None:
    for file in ("lost", "text", "one"):
        (tmp_path / file).write_bytes(BAD[file][0])
        (tmp_path / file).chmod(0o755)
    (tmp_path / "dir").mkdir()
    (tmp_path / "loop").symlink_to("loop")
    volume = [f"--volume=data,kind=host,source={tmp_path}", "--mount=volume=data,target=/data"]
    pod = rkt.run(*volume, odd, f"--exec=/data/{name}")
    done = pod.finish()
    assert done.code == BAD[name][1], done.err
    removed(rkt, pod)


@pytest.mark.parametrize("directory, code", [("/data/file", 200), ("/data/no", 200), ("/data", 0)])
def test_a_directory_of_a_volume_in_which_nothing_can_run_has_systemds_code(
    rkt: RealRkt, odd: Path, tmp_path: Path, *, directory: str, code: int
) -> None:
    (tmp_path / "file").write_text("")
    volume = [f"--volume=data,kind=host,source={tmp_path},readOnly=true", "--mount=volume=data,target=/data"]
    pod = rkt.run(*volume, odd, f"--working-dir={directory}", "--exec=/bin/true")
    done = pod.finish()
    assert done.code == code, done.err
    removed(rkt, pod)


def test_a_mount_that_can_not_be_made_is_no_fault_of_the_command(rkt: RealRkt, odd: Path, tmp_path: Path) -> None:
    volume = [f"--volume=data,kind=host,source={tmp_path}", "--mount=volume=data,target=/proc/there"]
    pod = rkt.run(*volume, odd, "--exec=/bin/true")
    done = pod.finish()
    assert done.code == 254 and "/proc/there" in done.err, done.err
    removed(rkt, pod)


@pytest.mark.parametrize("how", ["--force", signal.SIGINT], ids=str)
def test_a_killed_pod_is_distinguished_from_one_that_died(
    rkt: RealRkt, odd: Path, *, how: "str | signal.Signals"
) -> None:
    pod = rkt.run(odd, *sh(f"trap '' TERM; {STAYS}"))
    pod.wait_for("up\n")
    if isinstance(how, signal.Signals):
        pod.process.send_signal(how)
        time.sleep(1)  # what comes at once is one wish
        pod.process.send_signal(how)
    else:
        assert rkt.call("stop", how, pod.uuid).code == 0
    done = pod.finish()
    assert done.code == 137 and "grace period" not in done.err and "--force" in done.err
    removed(rkt, pod)


def test_a_pod_that_is_stopped_before_its_app_has_begun_is_no_success(rkt: RealRkt, odd: Path) -> None:
    pod = rkt.run(odd, *sh(f"trap 'exit 0' TERM; {STAYS}"))
    proc = Path(f"/proc/{pod.process.pid}")

    def is_blocked() -> bool:
        if os.readlink(proc / "exe").endswith("/rkt"):
            return False  # which blocks signals, too, while it starts a thread
        blocked = int((proc / "status").read_text().partition("SigBlk:")[2].split()[0], 16)
        return bool(blocked & 1 << signal.SIGTERM - 1)

    def is_heard() -> bool:
        """What rkt has blocked as it becomes our program is blocked for a moment only."""
        for _ in range(3):
            if not is_blocked():
                return False
            time.sleep(0.02)
        return True

    wait_until(is_heard)
    pod.process.send_signal(signal.SIGTERM)
    done = pod.finish()
    assert (done.code, done.out) == (143, ""), done.err
    removed(rkt, pod)


def test_the_two_signals_of_timeout_are_one(rkt: RealRkt, odd: Path, tmp_path: Path) -> None:
    argv = [*rkt.prefix, "run", "--net=none", f"--stage1-path={rkt.stage1}", f"--uuid-file-save={tmp_path}/uuid"]
    volume = [f"--volume=data,kind=host,source={tmp_path}", "--mount=volume=data,target=/data"]
    script = 'timeout --preserve-status --signal=INT infinity "$@" & while ! [ -e $UP ]; do sleep 0.1; done'
    script += "; kill -INT $!; wait $!"
    line = f"trap 'exit 17' TERM; touch /data/up; {STAYS}"
    done = subprocess.run(
        ["bash", "-mc", script, "x", *argv, *volume, str(odd), *sh(line)],
        env={**rkt.env, "UP": f"{tmp_path}/up"}, stdin=subprocess.DEVNULL, capture_output=True, timeout=LIMIT_S,
    )  # fmt: skip
    assert done.returncode == 17, done.stderr
    assert rkt.call("rm", (tmp_path / "uuid").read_text().strip()).code == 0


def test_enter_has_the_codes_of_shells_and_ends_with_its_reader(rkt: RealRkt, odd: Path) -> None:
    pod = rkt.run(odd, *sh(f"trap 'exit 0' TERM; {STAYS}"))
    pod.wait_for("up\n")
    assert {command: pod.enter(command).code for command in COMMANDS} == COMMANDS
    assert pod.enter("/bin/sh", "-c", "echo 'exec: Exec format error' >&2; echo more; exit 1").code == 1
    enter = subprocess.Popen([*rkt.prefix, "enter", pod.uuid, "yes"], env=rkt.env, stdout=subprocess.PIPE)
    assert enter.stdout and enter.stdout.readline() == b"y\n"
    enter.stdout.close()
    assert enter.wait(LIMIT_S) == 128 + signal.SIGPIPE
    assert pod.enter("pidof", "yes").code == 1, "it has ended in the guest too"
    assert rkt.call("stop", pod.uuid).code == 0 and pod.finish().code == 0
    removed(rkt, pod)


def test_a_volume_at_dev_has_the_devices(rkt: RealRkt, odd: Path, tmp_path: Path) -> None:
    (tmp_path / "own").write_text("of the host\n")
    volume = ["--volume=dev,kind=host,source=" + str(tmp_path), "--mount=volume=dev,target=/dev"]
    line = "cat /dev/own; echo x > /dev/null; head -c 3 /dev/zero | wc -c; [ -d /dev/shm ] && ls /dev/pts"
    pod = rkt.run(*volume, odd, *sh(line))
    done = pod.finish()
    assert (done.code, done.out) == (0, "of the host\n3\nptmx\n"), done.err
    removed(rkt, pod)


def test_a_working_directory_that_is_missing_is_not_made(rkt: RealRkt, odd: Path) -> None:
    pod = rkt.run(odd, "--working-dir=/not/there", *sh("pwd"))
    done = pod.finish()
    assert (done.code, done.out) == (200, "") and "/not/there" in done.err
    removed(rkt, pod)
