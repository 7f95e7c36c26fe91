# SPDX-License-Identifier: Apache-2.0
"""The launcher of rkt's stage1 image with scripts in place of Python and of the VMM: it alone holds the lock; it and
the VMM end together, and the code is the pod's.
"""

import os
import pty
import select
import signal
import stat
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.fakes.bare_stage1 import END, EOF, ERR, IN, MARK, OUT, OWNER, SIZE, UUID, BareStage1, record
from tests.fakes.patience import PATIENCE
from tests.rkt import small_stage1

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="the launcher leaves the host's mounts, for which it must be root"),
    pytest.mark.timeout(60),
]
ENDED = MARK + record(END, b"\0")


@pytest.fixture
def stage1(tmp_path: Path, jailer: str) -> Iterator[BareStage1]:
    made = BareStage1(tmp_path, small_stage1.launcher(), jailer)
    yield made
    made.clean()
    pid = made.known_pid
    wait_until(lambda: not pid or is_gone(pid), limit_s=2)


def is_gone(pid: int) -> bool:
    """What nobody has reaped yet is gone as well."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def wait_until(what: Callable[[], object], limit_s: float = 10.0) -> None:
    until = time.monotonic() + limit_s * PATIENCE
    while not what():
        assert time.monotonic() < until, "that did not happen in time"
        time.sleep(0.01)


def has_started(stage1: BareStage1) -> Callable[[], object]:
    return lambda: stage1.vmm_pid() and stage1.hears_signals()


def finish(process: "subprocess.Popen[bytes]") -> tuple[int, bytes, bytes]:
    out, err = process.communicate(timeout=30 * PATIENCE)
    return process.returncode, out, err


def test_output_and_code_are_the_pods(stage1: BareStage1) -> None:
    says = b"SeaBIOS\r\n" + MARK + record(OUT, b"out\n") + record(ERR, b"err\n") + record(OUT, b"\0\xff")
    stage1.vmm(says=says + record(END, b"\x07app one ended with code 7"))
    code, out, err = finish(stage1.run())
    assert (code, out) == (7, b"out\n\0\xff")
    assert err == b"err\nclearpod: app one ended with code 7\n"
    assert not stage1.is_locked()


def test_only_the_launcher_gets_the_lock(stage1: BareStage1) -> None:
    stage1.vmm(says=ENDED)
    process = stage1.run()
    wait_until(lambda: stage1.wrote("vmm"))
    assert finish(process)[0] == 0
    assert stage1.wrote("python") and str(stage1.pod) not in stage1.wrote("python").partition("total")[2]
    assert stage1.wrote("vmm-fds") and str(stage1.pod) not in stage1.wrote("vmm-fds")
    assert "RKT_LOCK_FD" not in stage1.wrote("python")


def test_python_gets_no_settings_of_other_pythons(stage1: BareStage1) -> None:
    stage1.vmm(says=ENDED)
    odd = {"PATH": "/usr/bin:/bin", "PYTHONPATH": "/nowhere", "LD_PRELOAD": "", "KEPT": "yes"}
    assert finish(stage1.run(env=odd))[0] == 0
    output = stage1.wrote("python")
    assert output.startswith(f"run --net=none {UUID}\n") and "KEPT=yes" in output and "HOME" not in output
    assert "PYTHONPATH" not in output and "LD_PRELOAD" not in output


def test_the_vmm_ends_with_the_launcher(stage1: BareStage1) -> None:
    stage1.vmm(says=MARK, then="exec sleep 60")
    process = stage1.run()
    wait_until(has_started(stage1))
    assert stage1.is_locked()
    process.kill()
    process.communicate()
    wait_until(lambda: is_gone(stage1.vmm_pid()), limit_s=3)
    assert not stage1.is_locked()


def test_the_launcher_ends_with_the_vmm_and_reports_why(stage1: BareStage1) -> None:
    stage1.vmm(says=b"Kernel panic\n", then="echo no such device >&2; exec sleep 60")
    process = stage1.run()
    wait_until(has_started(stage1))
    wait_until(lambda: "sleep" in Path(f"/proc/{stage1.vmm_pid()}/cmdline").read_text())
    os.kill(stage1.vmm_pid(), signal.SIGKILL)
    code, _, err = finish(process)
    assert code == 254 and b"ended by itself (signal 9)" in err and str(stage1.place / "console").encode() in err
    assert b"Kernel panic" in err and b"no such device" in err


def test_the_reason_of_a_death_is_shown_without_noise_and_escapes(stage1: BareStage1) -> None:
    says = b"[    1.95] PCI: Fatal: No config space\r\n[    2.0] Kernel panic - not syncing: \x1b[31mno\x1b[0m init\r\n"
    stage1.vmm(says=says, then="exit 1")
    code, _, err = finish(stage1.run())
    assert code == 254 and b"clearpod: Kernel panic - not syncing: no init\n" in err
    assert b"PCI" not in err and b"\x1b" not in err and b"\r" not in err


def test_the_agents_last_output_leaves_the_terminal_as_it_is(stage1: BareStage1) -> None:
    stage1.vmm(says=MARK + record(END, b"\x07the app \x1b]0;title\x07\x1b[2Jended\n"))
    assert finish(stage1.run()) == (7, b"", b"clearpod: the app 0;titleended\n")


def test_what_was_written_just_before_the_end_is_not_lost(stage1: BareStage1) -> None:
    stage1.vmm(says=MARK + record(OUT, b"x" * 4000) * 16 + record(END, b"\x05"), then="exit 0")
    code, out, _ = finish(stage1.run())
    assert (code, len(out)) == (5, 64000)


def test_a_signal_stops_in_order_and_the_second_one_at_once(stage1: BareStage1) -> None:
    stage1.vmm(says=MARK, then="exec sleep 60")
    process = stage1.run()
    wait_until(has_started(stage1))
    process.send_signal(signal.SIGTERM)
    wait_until(lambda: stage1.wrote("stopped") == f"stop {UUID}\n")
    process.send_signal(signal.SIGTERM)
    time.sleep(1)  # past the launcher's ONE_WISH_MS
    assert process.poll() is None and stage1.wrote("stopped") == f"stop {UUID}\n", "what comes at once is one wish"
    process.send_signal(signal.SIGINT)
    wait_until(lambda: stage1.wrote("stopped") == f"stop {UUID}\nstop --force {UUID}\n")
    os.kill(stage1.vmm_pid(), signal.SIGKILL)
    assert finish(process)[0] == 254


def test_a_vmm_that_a_stop_has_killed_is_no_death(stage1: BareStage1) -> None:
    stage1.vmm(says=MARK, then="exec sleep 60")
    process = stage1.run()
    wait_until(has_started(stage1))
    (stage1.place / "killed").touch()  # as stage1/rkt/machine.py
    os.kill(stage1.vmm_pid(), signal.SIGKILL)
    code, _, err = finish(process)
    assert code == 137 and err.count(b"\n") == 1 and b"--force" in err


def test_a_hangup_that_was_ignored_stays_ignored(stage1: BareStage1) -> None:
    stage1.vmm(says=MARK, then="exec sleep 60")
    process = stage1.run(through=["env", "--ignore-signal=HUP"])
    wait_until(has_started(stage1))
    process.send_signal(signal.SIGHUP)
    process.send_signal(signal.SIGTERM)
    wait_until(lambda: stage1.wrote("stopped"))
    assert stage1.wrote("stopped") == f"stop {UUID}\n"
    process.kill()
    process.communicate()


@pytest.mark.parametrize("closed", [True, False])
def test_a_pod_whose_output_is_not_read_continues(stage1: BareStage1, closed: bool) -> None:
    says = MARK + record(OUT, b"x" * 4000) * 64 + record(END, b"\x03")
    stage1.vmm(says=says)
    if closed:
        process = stage1.run(stdout=None, through=["sh", "-c", 'exec "$@" >&-', "sh"])
    else:
        process = stage1.run()
        assert process.stdout
        process.stdout.close()
    assert process.wait(30 * PATIENCE) == 3
    assert process.stderr
    process.stderr.close()


def test_a_slow_reader_loses_nothing_and_does_not_prevent_the_end(stage1: BareStage1) -> None:
    stage1.vmm(says=MARK + record(OUT, b"x" * 4000) * 64 + record(END, b"\x03"))
    process = stage1.run()
    time.sleep(0.3)
    process.send_signal(signal.SIGTERM)
    wait_until(lambda: stage1.wrote("stopped"))
    assert (process.poll(), finish(process)[:2]) == (None, (3, b"x" * 256000))


def test_a_stalled_terminal_does_not_prevent_the_end(stage1: BareStage1) -> None:
    ours, theirs = pty.openpty()
    says = MARK + b"".join(record(OUT, bytes([65 + at % 26]) * 4000) for at in range(64)) + record(END, b"\x03")
    stage1.vmm(says=says)
    process = stage1.run(stdout=theirs)
    time.sleep(0.5)  # until the terminal is full
    process.send_signal(signal.SIGTERM)
    wait_until(lambda: stage1.wrote("stopped"), limit_s=3)
    got = bytearray()
    while select.select([ours], [], [], 0.5)[0]:
        got += os.read(ours, 65536)
    assert process.wait(30 * PATIENCE) == 3 and len(got) == 256000, "and nothing of it is lost"
    os.close(ours), os.close(theirs)


def test_the_codes_of_apps_are_handed_on_by_the_launcher_until_the_end(stage1: BareStage1) -> None:
    told, codes = stage1.place / "told", stage1.place / "codes"
    for path in (told, codes, stage1.pod / "appsinfo/one", stage1.pod / "appsinfo/two"):
        path.mkdir(parents=True)
    os.chown(told, OWNER, OWNER)
    (stage1.place / "victim").write_text("whole")
    stage1.vmm(says=MARK, then="exec sleep 60", more=f"w{told}\0r{codes}")
    process = stage1.run()
    wait_until(has_started(stage1))
    (told / ".new").write_text("7\n")
    (told / ".new").rename(told / "one")
    wait_until(lambda: not (told / "one").exists())  # which comes after the copy
    assert (codes / "one").read_text() == "7\n"
    (told / "one-started").symlink_to(stage1.place / "victim")
    (told / ".link").symlink_to(stage1.place / "victim")
    (told / ".link").rename(told / "two")
    wait_until(lambda: not os.path.lexists(told / "two"))
    assert os.listdir(codes) == ["one"], "no link, and nothing but the codes of apps"
    (told / "two").write_text("0")
    os.kill(stage1.vmm_pid(), signal.SIGKILL)
    finish(process)
    assert (codes / "two").read_text() == "0\n" and (stage1.place / "victim").read_text() == "whole"


def test_input_comes_in_records_and_ends_in_one(stage1: BareStage1) -> None:
    then = f"head -c 12 > {stage1.place}/input\nprintf '\\003\\0\\001\\0\\0'\nexec sleep 60"
    stage1.vmm(says=MARK, then=then, interactive=True)
    process = stage1.run(stdin=subprocess.PIPE)
    out, _ = process.communicate(b"a\0b\n", timeout=30 * PATIENCE)
    assert (process.returncode, out) == (0, b"")
    assert (stage1.place / "input").read_bytes() == record(IN, b"a\0b\n") + record(EOF)


def test_a_vmm_that_needs_a_terminal_gets_one_that_changes_no_byte(stage1: BareStage1) -> None:
    then = f"test -t 0 && echo yes > {stage1.place}/tty\nhead -c 12 > {stage1.place}/input\n"
    then += "printf '\\003\\0\\001\\0\\0'\nexec sleep 60"
    every = bytes(range(256)) * 200
    says = MARK + b"".join(record(OUT, every[at : at + 4000]) for at in range(0, len(every), 4000))
    stage1.vmm(says=says, then=then, interactive=True, more="t")
    process = stage1.run(stdin=subprocess.PIPE)
    out, _ = process.communicate(b"a\x01b", timeout=30 * PATIENCE)
    assert (process.returncode, out == every) == (0, True)
    assert stage1.wrote("tty") == "yes\n"
    doubled = record(IN, b"a\x01b").replace(b"\x01", b"\x01\x01")
    assert (stage1.place / "input").read_bytes() == doubled + record(EOF)


def test_without_interactive_no_input_is_read(stage1: BareStage1) -> None:
    stage1.vmm(says=ENDED)
    ours, theirs = os.pipe()
    os.write(theirs, b"mine")
    process = stage1.run(stdin=ours)
    assert finish(process)[0] == 0
    assert os.read(ours, 10) == b"mine"
    os.close(ours), os.close(theirs)


def test_a_terminal_is_raw_as_long_as_the_pod_has_it(stage1: BareStage1) -> None:
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 80))
    before = termios.tcgetattr(theirs)
    then = f"head -c 13 > {stage1.place}/input\nprintf '\\003\\0\\001\\0\\0'\nexec sleep 60"
    stage1.vmm(says=MARK + record(OUT, b"ready\n"), then=then, interactive=True)
    process = stage1.run(stdin=theirs, stdout=theirs, stderr=theirs)
    select.select([ours], [], [], 20)
    assert os.read(ours, 100) == b"ready\n"
    assert not termios.tcgetattr(theirs)[3] & (termios.ICANON | termios.ECHO | termios.ISIG)
    os.write(ours, b"\x03")
    assert process.wait(30 * PATIENCE) == 0
    assert termios.tcgetattr(theirs) == before
    size = record(SIZE, bytes([24, 0, 80, 0]))
    assert (stage1.place / "input").read_bytes() == size + record(IN, b"\x03")
    os.close(ours), os.close(theirs)


JOB = """
import fcntl, os, signal, subprocess, sys, termios
os.setsid()
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
signal.signal(signal.SIGTTOU, signal.SIG_IGN)
job = subprocess.Popen(sys.argv[1:], process_group=0, restore_signals=True,
                       preexec_fn=lambda: signal.signal(signal.SIGTTOU, signal.SIG_DFL))
how = os.WIFSTOPPED(os.waitpid(job.pid, os.WUNTRACED)[1])
print("stopped", how, flush=True)
os.kill(job.pid, signal.SIGTERM)
os.kill(job.pid, signal.SIGCONT)
print("code", os.waitstatus_to_exitcode(os.waitpid(job.pid, 0)[1]), flush=True)
"""


def test_a_job_in_the_background_stops_for_the_terminal_and_can_be_ended(stage1: BareStage1) -> None:
    ours, theirs = pty.openpty()
    before = termios.tcgetattr(theirs)
    end = f"until test -s {stage1.place}/stopped; do sleep 0.05; done; printf '\\003\\0\\001\\0\\021'"
    stage1.vmm(says=MARK, then=f"{end}; exec sleep 60", interactive=True)
    argv = [sys.executable, "-c", JOB, f"{stage1.root}/run", "--net=none", UUID]
    shell = subprocess.Popen(argv, cwd=stage1.pod, stdin=theirs, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    stage1.processes.append(shell)
    out, err = shell.communicate(timeout=30 * PATIENCE)
    assert out == b"stopped True\ncode 17\n", (out, err)
    assert termios.tcgetattr(theirs) == before, "it is the shell's terminal"
    os.close(ours), os.close(theirs)


def test_a_run_that_fails_has_written_why(stage1: BareStage1) -> None:
    (stage1.place / "fails").write_text("254")
    assert finish(stage1.run()) == (254, b"", b"")


def test_a_run_that_selects_nothing_is_distinguished_from_one_that_works(stage1: BareStage1) -> None:
    code, _, err = finish(stage1.run())
    assert code == 254 and b"launch spec" in err


@pytest.mark.parametrize(("more", "text"), [
    ("s/no/such/directory/sock", b"can't be made: No such file"), (f"s/{'x' * 200}", b"too long"),
    ("j/no/such/jailer", b"/no/such/jailer can't be started"), ("zodd", b"launch spec"),
])  # fmt: skip
def test_a_launch_spec_that_can_not_be_executed_is_an_error(stage1: BareStage1, more: str, text: bytes) -> None:
    stage1.vmm(more=more)
    code, _, err = finish(stage1.run())
    assert code == 254 and text in err


def test_a_jail_that_can_not_be_made_is_an_error_and_leaves_nothing(stage1: BareStage1) -> None:
    stage1.vmm(jail=["n/no/such/netns"])
    code, _, err = finish(stage1.run())
    assert code == 254 and b"jail can't be set up: " in err and b"/no/such/netns" in err and not stage1.wrote("vmm")


def test_a_vmm_that_can_not_be_started_is_an_error_and_leaves_nothing(stage1: BareStage1) -> None:
    stage1.vmm()
    (stage1.place / "vmm.sh").unlink()
    code, _, err = finish(stage1.run())
    assert code == 254 and b"can't start" in err and b"vmm.sh" in err


def test_the_vmm_gets_its_socket_and_its_console_as_descriptors(stage1: BareStage1) -> None:
    then = f"ls -l /proc/$$/fd > {stage1.place}/fds; bash -c 'echo kernel >&11'; exec sleep 60"
    stage1.vmm(says=MARK, then=then, more=f"s{stage1.place}/agent.sock", jail=["k10", "k11"])
    process = stage1.run()
    wait_until(lambda: stage1.wrote("console") == "kernel\n")
    socket = stage1.place / "agent.sock"
    assert stat.S_ISSOCK(socket.stat().st_mode) and stat.S_IMODE(socket.stat().st_mode) == 0o600
    shown = [line.split(" -> ")[0].split()[-1] for line in stage1.wrote("fds").splitlines() if " -> " in line]
    assert {"0", "1", "2", "10", "11"} <= {*shown} and not {"3", "4"} & {*shown}
    process.kill()
    process.communicate()


def test_the_vmm_has_an_unprivileged_user_on_the_host(stage1: BareStage1) -> None:
    stage1.vmm(says=MARK, then="exec sleep 60")
    process = stage1.run()
    wait_until(has_started(stage1))
    output = dict(line.split(":", 1) for line in Path(f"/proc/{stage1.vmm_pid()}/status").read_text().splitlines())
    assert {*output["Uid"].split(), *output["Gid"].split()} == {str(OWNER)} and output["NoNewPrivs"].strip() == "1"
    process.kill()
    process.communicate()


def test_the_other_entry_points_execute_python(stage1: BareStage1) -> None:
    done = subprocess.run([stage1.root / "enter", "--pid=1", "--", "a b", ""], cwd=stage1.pod, check=False)
    assert done.returncode == 33
    assert stage1.wrote("python").startswith("enter --pid=1 -- a b \n")


def test_an_image_without_python_is_reported_as_damaged(stage1: BareStage1) -> None:
    (stage1.root / "usr" / "lib" / "clearpod" / "python" / "ld.so").unlink()
    done = subprocess.run([stage1.root / "stop", UUID], cwd=stage1.pod, capture_output=True, check=False)
    assert done.returncode == 254 and b"the stage1 image is damaged" in done.stderr


def test_the_launcher_itself_is_small_in_memory(stage1: BareStage1) -> None:
    stage1.vmm(says=MARK, then="exec sleep 60")
    process = stage1.run()
    wait_until(has_started(stage1))
    rollup = Path(f"/proc/{process.pid}/smaps_rollup").read_text()
    process.kill()
    process.communicate()
    (pss,) = (line for line in rollup.splitlines() if line.startswith("Pss:"))
    assert int(pss.split()[1]) <= 110
